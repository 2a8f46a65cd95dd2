"""Stage `distill`: a policy and scored rollouts come in, the policy after one epoch of updates goes out.

`epoch` runs it on one or several machines; `loop` is the update itself. Read `masking`, `forward` and `loop` first.
"""
