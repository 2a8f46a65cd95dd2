"""What a run will need before it starts: bytes per device, floating-point operations, loads and seconds.

Everything follows from a configuration and a model's shape; neither torch nor weights are needed.

Letters: T tokens of a sequence with its prompt, L of its completion, V vocabulary, D width, F width inside the MLP,
H heads of width W, of which K have keys and values.
"""
