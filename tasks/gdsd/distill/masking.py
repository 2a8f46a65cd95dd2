"""Which tokens are hidden when the denoiser scores a completion: coupled masks, and prompts with some tokens hidden."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.gdsd import seeds

EVEN = 0.1  # of a state's chance, whatever it unmasked: none stands for more than 10 S / C states
LONGEST_PROMPT = 2**20  # counters per draw, so that a longer prompt in the batch changes no other's numbers


@dataclass(frozen=True)
class Views:
    """Copies of prompt and completion in which some tokens are hidden."""

    hidden: Tensor  # (C, B, L) bool: completion tokens that are hidden
    read: Tensor  # (C, B, L) bool: those of them that are read out
    counted: Tensor  # (B, L) bool: the others of a completion are hidden in every view and never read out
    prompt_hidden: Tensor | None  # (C, B, S) bool; None where prompts stay as they are
    weight: Tensor | None = None  # (C, B): of what is read, where some views stand for others; None: all count alike


def counted_tokens(
    completions: Tensor,  # (B, L) int64
    end_ids: Sequence[int],
) -> Tensor:  # (B, L) bool
    """Marks the tokens up to the first end token, which is included; all of them where there are no `end_ids`."""
    ends = torch.isin(completions, torch.tensor(end_ids, dtype=completions.dtype, device=completions.device)).long()
    return ends.cumsum(1) - ends == 0  # no end token before


def mask_views(
    masks: Tensor,  # (K, B, L) bool
    counted: Tensor,  # (B, L) bool
    complement: bool = True,
) -> Views:
    """Makes a view that hides each mask, followed, on demand, by one that hides its complement: K or 2K in all."""
    if complement:
        masks = torch.stack([masks, ~masks], dim=1).flatten(0, 1)  # (2K, B, L)
    hidden = masks & counted
    return Views(hidden, hidden, counted, None)


def random_masks(
    keys: Tensor,  # (B,) int64: one key per sequence; equal keys get equal masks
    counted: Tensor,  # (B, L) bool: only these are hidden
    pairs: int,
    blocks: int | None = None,
) -> Tensor:  # (K, B, L) bool
    """Draws K masks per sequence; the complement of each is its partner, so a pair hides every token exactly once.

    The number of hidden tokens x is uniform over 0..L and stratified over the distinct keys, where L counts the
    sequence's own tokens. Given x, the set is uniform among those of that size. Source: arXiv 2605.29398 (coupled
    sampling as in arXiv 2506.20639).

    Args:
        blocks: tokens of a block, counted from the end: the last blocks are hidden whole before any token of an earlier
            one, in which the set is then uniform (GaryBall/GDSD at 2211b60, with `remasking` random).
    """
    distinct, which = torch.unique(keys, return_inverse=True)  # (U,), (B,)
    block = _blocks(pairs, counted)  # (K, 1)
    quantile = _strata(distinct, block)[:, which]  # (K, B)
    hidden_count = (quantile * (counted.sum(1) + 1)).long()  # (K, B) in 0..L
    positions = torch.arange(counted.shape[1], device=keys.device)
    order = seeds.uniform(distinct[:, None], (block + 2)[:, :, None] + positions)[:, which]  # (K, B, L)
    if blocks is not None:
        order = order + (counted.sum(1, keepdim=True) - 1 - positions) // blocks
    ranks = order.masked_fill(~counted, torch.inf).argsort(dim=2).argsort(dim=2)
    return ranks < hidden_count[:, :, None]  # (K, B, L)


def trajectory_masks(
    keys: Tensor,  # (B,) int64: one key per sequence; equal keys get the same step of their own trajectories
    unmasked_at: Tensor,  # (B, L) int64: the sampler's step that unmasked each token
    counted: Tensor,  # (B, L) bool: only these are hidden
    pairs: int,
) -> Tensor:  # (K, B, L) bool
    """Picks K states per sequence that the sampler really visited: hidden is what was still hidden before a step.

    The step is uniform over the sampler's steps and stratified over the distinct keys. Random masks show the denoiser
    contexts that sampling never meets; these do not. The partner of a state is again its complement.
    """
    distinct, which = torch.unique(keys, return_inverse=True)  # (U,), (B,)
    block = _blocks(pairs, counted)  # (K, 1)
    step = (_strata(distinct, block) * (unmasked_at.max() + 1)).long()[:, which]  # (K, B)
    return (unmasked_at >= step[:, :, None]) & counted  # (K, B, L)


def path_views(
    keys: Tensor,  # (B,) int64: one key per sequence; equal keys get the same steps
    unmasked_at: Tensor,  # (B, L) int64: the sampler's step that unmasked each token
    uncertainty: Tensor,  # (B, L) float32: of the policy about each token when the sampler unmasked it, not negative
    counted: Tensor,  # (B, L) bool: only these are hidden
    states: int | None = None,
) -> Views:
    """Reads each token in the state in which the sampler unmasked it, so that all together are a log-likelihood.

    That is the likelihood of the tokens given the order in which they were unmasked: sum over the steps s of log p of
    the tokens that s unmasked given what was there before. Views are the states before each step that unmasked a token
    that counts.

    Args:
        states: takes so many of the steps, the likelier the less certain the policy was of what they unmasked, summed
            over the batch: what was certain says little of why one completion is better than another. A state stands
            for 1 / (its chance) states, so that the sum over all that may be taken is that of the whole path
            (Horvitz and Thompson). None, or more than there are: all.
    """
    steps = unmasked_at[counted].unique()  # (S,)
    place = torch.searchsorted(steps, unmasked_at)  # (B, L): the state in which each token that counts is read
    if states is None or states >= len(steps):
        chosen, weight = torch.arange(len(steps), device=keys.device)[:, None], None  # (S, 1)
    else:
        # On a CPU, where a sum does not depend on who comes first.
        totals = torch.bincount(place[counted].cpu(), uncertainty[counted].double().cpu(), len(steps))
        if not (totals.isfinite() & (totals >= 0)).all():
            raise ValueError(
                "uncertainties must be finite and not negative; see what the engine says of its completions"
            )
        chances = _chances(totals, states)
        distinct, which = torch.unique(keys, return_inverse=True)  # (U,), (B,)
        start = _strata(distinct, _blocks(1, counted))[0, which]  # (B,)
        # Marks at distances of 1 hit a stretch of a step's length with its chance, and no stretch twice.
        marks = torch.arange(states, device=keys.device)[:, None] + start
        ends = chances.cumsum(0).to(keys.device)
        chosen = torch.searchsorted(ends, marks, right=True).clamp(max=len(steps) - 1)  # (C, B)
        weight = (1 / chances.to(keys.device)[chosen]).float()
    at, read = chosen[:, :, None], place == chosen[:, :, None]
    return Views((place >= at) & counted, read & counted, counted, None, weight)


def _chances(
    totals: Tensor,  # (S,) float64, not negative
    count: int,  # less than S
) -> Tensor:  # (S,) float64 in (0, 1], which add up to `count`
    """Returns chances in proportion to the totals, beside an even part, as far as none exceeds 1."""
    size = len(totals)
    share = totals / totals.sum() if totals.any() else torch.full_like(totals, 1 / size)
    share = (1 - EVEN) * share + EVEN / size
    chances = share * count
    while bool((chances > 1).any()):
        sure = chances >= 1
        rest = share.masked_fill(sure, 0.0)
        chances = (rest * (count - sure.sum()) / rest.sum()).masked_fill(sure, 1.0)
    return chances


def prompt_views(
    keys: Tensor,  # (B,) int64: one key per sequence; equal keys hide the same prompt tokens
    attention: Tensor,  # (B, S) bool, False on left padding
    counted: Tensor,  # (B, L) bool
    draws: int,
    rate: float,
) -> Views:
    """Hides whole completions, and each prompt token with a probability, in C = `draws` views.

    Source: the one-step estimate of d1 (arXiv 2504.12216, section 3.1).
    """
    width = attention.shape[1]
    from_end = width - 1 - torch.arange(width, device=keys.device)  # so that padding on the left moves nothing
    draw = torch.arange(draws, device=keys.device)[:, None, None]
    noise = seeds.uniform(keys[:, None], draw * LONGEST_PROMPT + from_end)  # (C, B, S)
    hidden = counted.repeat(draws, 1, 1)
    return Views(hidden, hidden, counted, (noise < rate) & attention)


def _blocks(pairs: int, counted: Tensor) -> Tensor:  # (K, 1)
    """First counter of each pair: one number ranks a key among the strata, one jitters within, L order the tokens."""
    return torch.arange(pairs, device=counted.device)[:, None] * (counted.shape[1] + 2)


def _strata(
    keys: Tensor,  # (U,) int64, distinct
    block: Tensor,  # (K, 1) int64
) -> Tensor:  # (K, U) float64 in [0, 1)
    """Gives the keys, in a random order, evenly spaced quantiles with jitter: one per stratum of width 1 / U."""
    ranks = seeds.uniform(keys, block).argsort(dim=1).argsort(dim=1)
    return (ranks + seeds.uniform(keys, block + 1)) / len(keys)
