"""Stage `reward`: rollouts come in, each leaves with its verdict, its reward and its advantage in its group.

Read `rewards` first; `quality` refuses what is unfit for training.
"""
