"""What every stage needs of Flyte: how a function becomes a task, what travels between tasks, what is cached.

Read `stage` first, then `types` and `sources`.
"""
