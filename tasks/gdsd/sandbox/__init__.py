"""Sandboxes: foreign code and hostile answers come in, verdicts go out, and nothing else does.

`host` starts a confined process, `levels` says how much the system can confine it, the files in `guest` run inside.
Read `host` first, then `guest/launch`.
"""
