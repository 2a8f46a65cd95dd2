"""Coupled mask draws: which completion tokens are hidden when a completion is scored."""

import torch
from torch import Tensor

from tasks.gdsd import seeds


def random_masks(
    keys: Tensor,  # (B,) int64: one key per sequence; equal keys get equal masks
    length: int,
    pairs: int,
) -> Tensor:  # (K, B, L) bool
    """Draws K masks per sequence; the complement of each is its partner, so a pair hides every token exactly once.

    The number of hidden tokens x is uniform over 0..L and stratified over the distinct keys. Given x, the set is
    uniform among those of that size. Source: arXiv 2605.29398 (coupled sampling as in arXiv 2506.20639).
    """
    distinct, which = torch.unique(keys, return_inverse=True)  # (U,), (B,)
    block = _blocks(pairs, length, keys.device)  # (K, 1)
    hidden_count = (_strata(distinct, block) * (length + 1)).long()  # (K, U) in 0..L
    positions = torch.arange(length, device=keys.device)
    order = seeds.uniform(distinct[:, None], (block + 2)[:, :, None] + positions)  # (K, U, L)
    ranks = order.argsort(dim=2).argsort(dim=2)
    return (ranks < hidden_count[:, :, None])[:, which]  # (K, B, L)


def trajectory_masks(
    keys: Tensor,  # (B,) int64: one key per sequence; equal keys get the same step of their own trajectories
    unmasked_at: Tensor,  # (B, L) int64: the sampler's step that unmasked each token
    pairs: int,
) -> Tensor:  # (K, B, L) bool
    """Picks K states per sequence that the sampler really visited: hidden is what was still hidden before a step.

    The step is uniform over the sampler's steps and stratified over the distinct keys. Random masks show the denoiser
    contexts that sampling never meets; these do not. The partner of a state is again its complement.
    """
    distinct, which = torch.unique(keys, return_inverse=True)  # (U,), (B,)
    block = _blocks(pairs, unmasked_at.shape[1], keys.device)  # (K, 1)
    step = (_strata(distinct, block) * (unmasked_at.max() + 1)).long()[:, which]  # (K, B)
    return unmasked_at >= step[:, :, None]  # (K, B, L)


def _blocks(pairs: int, length: int, device: torch.device) -> Tensor:  # (K, 1)
    """First counter of each pair: one number ranks a key among the strata, one jitters within, L order the tokens."""
    return torch.arange(pairs, device=device)[:, None] * (length + 2)


def _strata(
    keys: Tensor,  # (U,) int64, distinct
    block: Tensor,  # (K, 1) int64
) -> Tensor:  # (K, U) float64 in [0, 1)
    """Gives the keys, in a random order, evenly spaced quantiles with jitter: one per stratum of width 1 / U."""
    ranks = seeds.uniform(keys, block).argsort(dim=1).argsort(dim=1)
    return (ranks + seeds.uniform(keys, block + 1)) / len(keys)
