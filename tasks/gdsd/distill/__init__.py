"""Stage `distill`: a policy and rewarded rollouts come in, and the policy after one epoch of updates goes out.

Read `loop` first, then `masking`, `forward` and `gradients`. `epoch` runs the loop from files to files.
"""
