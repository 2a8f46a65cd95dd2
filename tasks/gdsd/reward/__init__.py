"""Stage `reward`: rollouts come in, and each goes out with a verdict, a reward, and an advantage in its group.

Read `rewards` first, then `advantages`. `quality` refuses what is unfit for training.
"""
