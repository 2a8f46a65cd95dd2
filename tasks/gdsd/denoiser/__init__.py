"""The policy: a stock transformer read without the causal mask, and its tokenizer.

In comes a published model, a checkpoint or a seed; out go hidden states, the head that scores tokens, and checkpoints.
Read `denoiser.py` first, then `load.py` and `networks.py`.
"""
