"""What the rival objectives are given in tests."""

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
        hidden=hidden,
        lengths=hidden.any(0).sum(1),
        judged=torch.ones(hidden.shape[1], dtype=torch.bool) if judged is None else judged,
        group_size=group_size,
    )


def coupled(*masks: list[list[int]]) -> Tensor:  # (2K, B, L) bool
    """Views of K masks (B, L), given as 0 and 1, and of their complements."""
    return torch.stack([view for mask in masks for view in (torch.tensor(mask) == 1, torch.tensor(mask) == 0)])


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
        hidden=given.hidden[:, chosen],
        lengths=given.lengths[chosen],
        judged=given.judged[chosen],
        group_size=group_size or given.group_size,
    )
