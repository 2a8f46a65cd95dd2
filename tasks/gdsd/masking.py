"""Coupled mask draws: which completion tokens are hidden when a completion is scored."""

import torch
from torch import Tensor

from tasks.gdsd import seeds


def coupled_masks(
    keys: Tensor,  # (B,) int64: one key per sequence; equal keys get equal masks
    length: int,
    pairs: int,
) -> Tensor:  # (K, B, L) bool
    """Draws K masks per sequence; the complement of each is its partner, so a pair hides every token exactly once.

    The number of hidden tokens x is uniform over 0..L and stratified: the distinct keys of the batch, in a random
    order, take evenly spaced quantiles. Given x, the set is uniform among those of that size. Source: arXiv
    2605.29398 (coupled sampling as in arXiv 2506.20639).
    """
    distinct, which = torch.unique(keys, return_inverse=True)  # (U,), (B,)
    pair = torch.arange(pairs, device=keys.device)[:, None]  # (K, 1)
    # Counter blocks per pair: one number ranks the sequence among the strata, one jitters within, L order the tokens.
    block = pair * (length + 2)  # (K, 1)
    strata = seeds.uniform(distinct, block).argsort(dim=1).argsort(dim=1)  # (K, U) ranks
    jitter = seeds.uniform(distinct, block + 1)  # (K, U)
    hidden_count = ((strata + jitter) / len(distinct) * (length + 1)).long()  # (K, U) in 0..L
    positions = torch.arange(length, device=keys.device)
    order = seeds.uniform(distinct[:, None], (block + 2)[:, :, None] + positions)  # (K, U, L)
    ranks = order.argsort(dim=2).argsort(dim=2)
    return (ranks < hidden_count[:, :, None])[:, which]  # (K, B, L)
