"""Sandboxes: foreign code and hostile answers come in, and nothing but verdicts goes out.

`host` starts a confined process, `levels` says how much the system can confine it, and the files of `guest` run inside.
Read `host` first, then `guest/launch`. `mathematics` compares expressions, in processes of its own.
"""
