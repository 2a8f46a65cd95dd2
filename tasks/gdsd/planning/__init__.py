"""What a run will need: a configuration and a model's shape come in; bytes, operations, loads and seconds go out.

Neither torch nor weights are needed. Read `plan` first, then `work` and `memory`; `ways` has what a
run takes as stages and in memory.

Letters: T tokens of a sequence with its prompt, L of its completion, V vocabulary, D width, F width inside the MLP,
H heads of width W, of which K have keys and values.
"""
