"""Sandboxes: foreign code and hostile answers come in, verdicts go out, and nothing else does.

`host` starts a confined process; every other file runs inside one and imports nothing of the project but its
neighbours. Read `host` first, then `launch`.
"""
