"""From the states of hidden tokens to the tokens drawn for them, and how early each is to be unmasked.

Rows of logits are made only where a token is hidden, and worked on a few at a time, so that what is held beside them
stays small. One uniform number per row drives the draw by inverting the cumulative distribution in the order of the
vocabulary: no noise of the vocabulary's size is made, and the same number gives the same token wherever it is drawn.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tasks.gdsd.readout import Head

LOGITS_BYTES = 2**28  # of logits at a time
# Of probabilities in float64 at a time: within the cache of a CPU, and enough to keep a GPU busy.
CHUNK_BYTES = {"cpu": 2**24, "cuda": 2**27}


@dataclass(frozen=True)
class Rules:
    """What tokens are drawn from, and by what they are ranked."""

    temperature: float
    order: Literal["confidence", "entropy"]
    top_p: float
    top_k: int | None
    banned: Tensor  # (X,) int64

    @property
    def is_filtered(self) -> bool:
        """Whether some tokens are left out for being unlikely."""
        return self.top_p < 1 or self.top_k is not None


def choose(
    states: Tensor,  # (N, D): rows that predict a hidden token
    head: Head,
    uniform: Tensor,  # (N,) float64 in [0, 1)
    rules: Rules,
) -> tuple[Tensor, Tensor]:  # (N,) int64, (N,) float64
    """Draws a token per row, and returns the rank of each: the largest are unmasked first.

    'confidence' ranks by the token's probability at temperature 1, of all tokens (LLaDA, arXiv 2502.09992); 'entropy'
    by the negative entropy, in nats, of what was drawn from (Dream, arXiv 2508.15487).
    """
    vocabulary = len(head.weight)
    group = max(1, LOGITS_BYTES // (4 * vocabulary))
    chunk = max(1, CHUNK_BYTES["cpu" if states.device.type == "cpu" else "cuda"] // (8 * vocabulary))
    tokens, ranks = [], []
    for some, numbers in zip(states.split(group), uniform.split(group), strict=True):
        logits = head.logits(some).index_fill_(-1, rules.banned, -torch.inf)  # (N', V)
        for part, own in zip(logits.split(chunk), numbers.split(chunk), strict=True):
            token, rank = _choose(part, own, rules)
            tokens.append(token)
            ranks.append(rank)
    return torch.cat(tokens), torch.cat(ranks)


def _choose(logits: Tensor, uniform: Tensor, rules: Rules) -> tuple[Tensor, Tensor]:  # (N, V), (N,)
    peak, likeliest = logits.max(-1)  # the first of equals
    below = logits.to(torch.float64, copy=True).sub_(peak[:, None])
    heat = rules.temperature or 1.0
    by_confidence = rules.order == "confidence"
    # The mass of all tokens at temperature 1, from which confidence is taken.
    whole = below.exp().sum(-1) if by_confidence and heat != 1 else None
    mass = (below if heat == 1 else below.div_(heat)).exp_()
    if whole is None and by_confidence:
        whole = mass.sum(-1)
    if rules.is_filtered and not (by_confidence and rules.temperature == 0):
        mass = keep_likeliest(logits, mass, rules.top_p, rules.top_k)
    tokens = likeliest if rules.temperature == 0 else invert(mass, uniform)
    if whole is not None:
        return tokens, (logits.gather(1, tokens[:, None]).squeeze(1).double() - peak).exp() / whole
    total = mass.sum(-1)
    return tokens, torch.xlogy(mass, mass).sum(-1) / total - total.log()


def invert(
    mass: Tensor,  # (N, V) float64, not negative; its rows need not add up to 1
    uniform: Tensor,  # (N,) float64 in [0, 1)
) -> Tensor:  # (N,) int64
    """Returns the token at which the running sum of a row first exceeds its uniform number's share of the whole."""
    running = mass.cumsum(-1)
    # right=True skips tokens of no mass, which a uniform of exactly 0 would otherwise select.
    return torch.searchsorted(running, uniform[:, None] * running[:, -1:], right=True).squeeze(-1)


def keep_likeliest(
    logits: Tensor,  # (N, V)
    mass: Tensor,  # (N, V) float64, falling with the logits
    top_p: float,
    top_k: int | None,
) -> Tensor:  # (N, V) float64
    """Sets to zero what is neither among the `top_k` likeliest tokens nor needed for `top_p` of the row's mass.

    The nucleus is the fewest likeliest tokens whose mass reaches `top_p`: at least one. Of equally likely tokens the
    first are kept.
    """
    order = logits.argsort(dim=-1, descending=True, stable=True)
    falling = mass.gather(1, order)
    before = falling.cumsum(-1) - falling
    kept = before < top_p * falling.sum(-1, keepdim=True)
    if top_k is not None:
        kept[:, top_k:] = False
    return mass * torch.empty_like(kept).scatter_(1, order, kept)
