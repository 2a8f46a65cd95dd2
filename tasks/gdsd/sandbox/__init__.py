"""Sandboxes: foreign code and hostile answers come in, verdicts go out, and nothing else does.

`host` starts a confined process; the files in `guest` run inside one and import nothing of the project but each other.
Read `host` first, then `guest/launch`.
"""
