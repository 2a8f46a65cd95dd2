"""Stage `reward`: rollouts come in, and go out with a verdict, a reward, and an advantage within their group each.

Read `rewards` first, then `advantages`. `quality` refuses what is unfit for training.
"""
