"""Stage `reward`: rollouts come in, and each goes out with a verdict, a reward, and an advantage in its group.

Read `rewards` first, then `advantages`. `verdicts` refuses what is no verdict, `quality` what is unfit for training.
"""
