"""What the tasks share of Flyte: a function comes in, and a task with image, machine, retries and cache goes out.

Read `stage` first, then `types` (what travels between tasks) and `sources` (what the cache follows).
"""
