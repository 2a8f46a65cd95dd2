"""Scores of whole completions under coupled masks: the quantity that GDSD regresses."""

import torch
from torch import Tensor

from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.readout import READOUTS


def score_completions(
    denoiser: Denoiser,
    prompts: Tensor,  # (B, S) int64, left-padded
    attention: Tensor,  # (B, S) bool
    completions: Tensor,  # (B, L) int64
    masks: Tensor,  # (K, B, L) bool: True where the token is hidden
    readout: str,
) -> Tensor:  # (K, B) float32
    """Returns d = s / L, the mean readout of a completion's tokens, each predicted once under a mask or its complement.

    Both halves of a pair go through the denoiser as one batch, and only hidden tokens are read out. Every token counts
    once, so a guidance psi shifts each token by psi on average, as ELBO weights do in expectation. (Halving the sum of
    both halves, as the paper writes a pair's score, would make psi mean half as much.)
    """
    pairs, batch, length = masks.shape
    hidden = torch.cat([masks, ~masks], dim=1).flatten(
        0, 1
    )  # (2KB, L): mask halves of pair 0, complements, pair 1, ...
    repeat = 2 * pairs
    tokens = completions.repeat(repeat, 1)  # (2KB, L)
    ids = torch.cat([prompts.repeat(repeat, 1), tokens.masked_fill(hidden, denoiser.mask_id)], dim=1)
    attend = torch.cat([attention, torch.ones_like(completions, dtype=torch.bool)], dim=1).repeat(repeat, 1)
    states = denoiser(ids, attend)[:, prompts.shape[1] :]  # (2KB, L, D)
    scores = READOUTS[readout](states[hidden], denoiser.head(), tokens[hidden])  # (R,) float32
    per_token = torch.zeros(hidden.shape, device=scores.device).masked_scatter(hidden, scores)  # (2KB, L)
    return per_token.view(pairs, 2, batch, length).sum((1, 3)) / length
