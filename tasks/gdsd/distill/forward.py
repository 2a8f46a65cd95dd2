"""From completions and views to readouts of their hidden tokens."""

import torch
from torch import Tensor

from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.distill.masking import Views


def hidden_states(
    denoiser: Denoiser,
    prompts: Tensor,  # (B, S) int64, left-padded
    attention: Tensor,  # (B, S) bool
    completions: Tensor,  # (B, L) int64
    views: Views,
) -> tuple[Tensor, Tensor]:  # (R, D), (R,) int64
    """Returns the states of the rows that predict a hidden token, in the order of `views.hidden`, and those tokens.

    All views go through the denoiser as one batch.
    """
    count = len(views.hidden)
    hidden = (views.hidden | ~views.counted).flatten(0, 1)  # (C * B, L)
    tokens = completions.repeat(count, 1)  # (C * B, L)
    prefix = prompts.repeat(count, 1)  # (C * B, S)
    if views.prompt_hidden is not None:
        prefix = prefix.masked_fill(views.prompt_hidden.flatten(0, 1), denoiser.mask_id)
    ids = torch.cat([prefix, tokens.masked_fill(hidden, denoiser.mask_id)], dim=1)
    attend = torch.cat([attention, torch.ones_like(completions, dtype=torch.bool)], dim=1).repeat(count, 1)
    states = denoiser(ids, attend)[:, prompts.shape[1] :]  # (C * B, L, D)
    read = views.hidden.flatten(0, 1)  # (C * B, L)
    return states[read], tokens[read]


def spread(
    values: Tensor,  # (R,)
    hidden: Tensor,  # (C, B, L) bool, R of them true
) -> Tensor:  # (C, B, L): 0 where not hidden
    """Puts one value per hidden token in its place."""
    return values.new_zeros(hidden.shape).masked_scatter(hidden, values)


@torch.no_grad()
def negative_log_likelihood(
    log_probs: Tensor,  # (C, B, L), 0 where not hidden
    hidden: Tensor,  # (C, B, L) bool
    judged: Tensor,  # (B,) bool
) -> Tensor:  # ()
    """Sums over the judged completions the mean -log p of a token in the views that hide it.

    Of tokens that the policy drew itself this falls with its entropy, which no readout gives.
    """
    means = -log_probs.sum((0, 2)) / hidden.sum((0, 2)).clamp(min=1)  # (B,)
    return means.where(judged, 0.0).sum()
