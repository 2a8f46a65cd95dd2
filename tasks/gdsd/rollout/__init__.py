"""Stage `rollout`: prompts and a policy come in, sampled completions with their unmasking order go out.

An engine makes the completions; `shard` records those of one shard. Read `shard` first, then `engines/unmasking`.
"""
