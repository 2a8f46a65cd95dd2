"""Readouts and scores for tests: from a denoiser, or made up from scores that a test gives by hand."""

import torch
from torch import Tensor

from tasks.gdsd.config.objective import Readout
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.distill.forward import hidden_states, spread
from tasks.gdsd.distill.masking import Views, mask_views
from tasks.gdsd.distill.token_scores import read
from tasks.gdsd.objectives import Scores

LENGTH = 4


def readings(
    denoiser: Denoiser,
    prompts: Tensor,  # (B, S)
    attention: Tensor,  # (B, S)
    completions: Tensor,  # (B, L)
    views: Views,
    readout: Readout = "log_prob",
) -> Tensor:  # (C, B, L)
    """What a denoiser says of the hidden tokens, in place."""
    states, tokens = hidden_states(denoiser, prompts, attention, completions, views)
    return spread(read(readout, states, denoiser.head(), tokens), views.hidden)


def views_of(pairs: int, sequences: int, length: int = LENGTH) -> Views:
    """Random masks and their complements over completions of which everything counts."""
    masks = torch.rand(pairs, sequences, length, generator=torch.Generator().manual_seed(pairs)) < 0.5
    return mask_views(masks, torch.ones(sequences, length, dtype=torch.bool))


def evenly(
    scores: Tensor,  # (K, B): per token
    hidden: Tensor,  # (2K, B, L)
) -> Tensor:  # (2K, B, L)
    """Readouts of which each is the score of its pair, so that their sum over a pair, divided by L, is the score."""
    return scores.repeat_interleave(2, dim=0)[:, :, None] * hidden


def from_pair_scores(
    theta: Tensor,  # (K, B) per-token scores
    old: Tensor,  # (K, B)
    ref: Tensor | None = None,  # (K, B)
    judged: Tensor | None = None,  # (B,)
    group_size: int = 2,
    length: int = LENGTH,
) -> Scores:
    """What an objective is given when completions have these scores under K pairs of masks."""
    views = views_of(*theta.shape, length)
    return Scores(
        theta=evenly(theta, views.hidden),
        old=evenly(old, views.hidden),
        ref=None if ref is None else evenly(ref, views.hidden),
        theta_log_prob=None,
        ref_log_prob=None,
        hidden=views.hidden,
        lengths=views.counted.sum(1),
        judged=torch.ones(theta.shape[1], dtype=torch.bool) if judged is None else judged,
        group_size=group_size,
    )
