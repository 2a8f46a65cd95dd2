"""Stage `rollout`: prompts and a policy come in, and completions with the order of their unmasking go out.

An engine makes the completions. Read `shard` first, which records those of one shard, then `engines/unmasking`.
"""
