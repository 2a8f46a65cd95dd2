"""Stage `distill`: a policy and rewarded rollouts come in, the policy after one epoch of updates goes out.

Read `masking`, `forward`, `gradients` and `loop` first. `epoch` runs the loop from files to files, on all machines.
"""
