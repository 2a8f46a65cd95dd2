"""What objectives are given in tests."""

from dataclasses import replace

import torch
from torch import Tensor

from tasks.gdsd.objectives import Scores


def scores(
    hidden: Tensor,  # (C, B, L) bool
    theta: Tensor,  # (C, B, L), or what broadcasts to it; only what is hidden is kept
    old: Tensor,
    ref: Tensor | None = None,
    judged: Tensor | None = None,  # (B,)
    group_size: int = 2,
) -> Scores:
    """Readouts in the given views; the tokens that some view hides are those that count."""
    theta, old = theta * hidden, old * hidden
    return Scores(
        theta=theta,
        old=old,
        ref=None if ref is None else ref * hidden,
        theta_log_prob=None,
        ref_log_prob=None,
        read=hidden,
        lengths=hidden.any(0).sum(1),
        judged=torch.ones(hidden.shape[1], dtype=torch.bool) if judged is None else judged,
        group_size=group_size,
    )


def coupled(*masks: list[list[int]]) -> Tensor:  # (2K, B, L) bool
    """Views of K masks (B, L), given as 0 and 1, and of their complements."""
    return torch.stack([view for mask in masks for view in (torch.tensor(mask) == 1, torch.tensor(mask) == 0)])


def evenly(
    per_pair: Tensor,  # (K, B): per token
    hidden: Tensor,  # (2K, B, L)
) -> Tensor:  # (2K, B, L)
    """Readouts of which each is the score of its pair, so that their sum over a pair, divided by L, is the score."""
    return per_pair.repeat_interleave(2, dim=0)[:, :, None] * hidden


def from_pair_scores(
    theta: Tensor,  # (K, B) per-token scores
    old: Tensor,  # (K, B)
    ref: Tensor | None = None,  # (K, B)
    group_size: int = 2,
    length: int = 4,
) -> Scores:
    """What an objective is given when completions have these scores under K random masks and their complements."""
    masks = torch.rand(*theta.shape, length, generator=torch.Generator().manual_seed(len(theta))) < 0.5
    hidden = torch.stack([masks, ~masks], dim=1).flatten(0, 1)
    readouts = [None if given is None else evenly(given, hidden) for given in (theta, old, ref)]
    return scores(hidden, *readouts, group_size=group_size)


def whole(views: int, sequences: int, length: int) -> Tensor:  # (C, B, L) bool
    return torch.ones(views, sequences, length, dtype=torch.bool)


def example(hide: str, groups: int = 3, group_size: int = 4, length: int = 5) -> tuple[Scores, Tensor]:
    """Random log-probabilities and advantages in float64; in every other completion the last two tokens do not count.

    `coupled` gives two pairs of masks, one of which hides nothing in the first completion; `whole` gives two draws.
    """
    source = torch.Generator().manual_seed(0)
    sequences = groups * group_size
    counted = torch.ones(sequences, length, dtype=torch.bool)
    counted[1::2, -2:] = False
    masks = torch.rand(2, sequences, length, generator=source) < 0.5
    masks[0, 0] = False
    pairs = torch.stack([masks, ~masks], dim=1).flatten(0, 1)
    hidden = (pairs if hide == "coupled" else whole(2, sequences, length)) & counted
    theta, old, ref = -torch.rand(3, *hidden.shape, generator=source, dtype=torch.float64)
    advantages = torch.randn(sequences, generator=source, dtype=torch.float64)
    return scores(hidden, theta, old, ref, group_size=group_size), advantages


def rows(given: Scores, chosen: Tensor | slice, group_size: int | None = None) -> Scores:
    """Some sequences, in the order given."""
    assert given.ref is not None
    return replace(
        given,
        theta=given.theta[:, chosen],
        old=given.old[:, chosen],
        ref=given.ref[:, chosen],
        read=given.read[:, chosen],
        lengths=given.lengths[chosen],
        judged=given.judged[chosen],
        group_size=group_size or given.group_size,
    )
