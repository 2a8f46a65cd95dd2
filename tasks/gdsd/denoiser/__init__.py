"""The policy: a stock transformer read without the causal mask, and its tokenizer.

A published model, a checkpoint or a seed comes in. Hidden states, the head that scores tokens, and checkpoints go out.
Read `denoiser` first, then `load` and `networks`.
"""
