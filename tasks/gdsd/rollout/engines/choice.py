"""From the states of hidden tokens to the tokens drawn for them, and how early each is to be unmasked.

Rows of logits are made only where a token is hidden, and worked on a few at a time, so that what is held beside them
stays small. One uniform number per row drives the draw by inverting the cumulative distribution in the order of the
vocabulary: no noise of the vocabulary's size is made, and the same number gives the same token wherever it is drawn.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tasks.gdsd.denoiser.head import Head

LOGITS_BYTES = 2**28  # of logits at a time
# Of probabilities in float64 at a time: within the cache of a CPU, and enough to keep a GPU busy.
CHUNK_BYTES = {"cpu": 2**24, "cuda": 2**27}

SORTED = 256  # of each row's likeliest tokens, among which most nuclei end


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
    by the negative entropy, in nats, of what was drawn from (Dream, arXiv 2508.15487). Where logits are not finite, the
    rank is NaN and the token anyone.
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
    if rules.is_filtered:
        mass = keep_likeliest(logits, mass, rules.top_p, rules.top_k)
    tokens = likeliest if rules.temperature == 0 else invert(mass, uniform)
    if whole is not None:
        return tokens, (logits.gather(1, tokens[:, None]).squeeze(1).double() - peak).exp() / whole
    total = mass.sum(-1)
    return tokens, torch.xlogy(mass, mass).sum(-1) / total - total.log()


def uncertainty(
    ranks: Tensor,  # float64
    order: Literal["confidence", "entropy"],
) -> Tensor:  # float32, of the same shape
    """Returns what the ranks of `choose` say in nats: -log p of the tokens, or the entropies they were drawn with."""
    return (-ranks.log() if order == "confidence" else -ranks).float()


def invert(
    mass: Tensor,  # (N, V) float64, not negative; its rows need not add up to 1
    uniform: Tensor,  # (N,) float64 in [0, 1)
) -> Tensor:  # (N,) int64
    """Returns the token at which the running sum of a row first exceeds its uniform number's share of the whole.

    A row of NaN, which nothing exceeds, gives the last token: one outside the vocabulary would stop a GPU for good.
    """
    running = mass.cumsum(-1)
    # right=True skips tokens of no mass, which a uniform of exactly 0 would otherwise select.
    found = torch.searchsorted(running, uniform[:, None] * running[:, -1:], right=True).squeeze(-1)
    return found.clamp_(max=mass.shape[-1] - 1)


def keep_likeliest(
    logits: Tensor,  # (N, V)
    mass: Tensor,  # (N, V) float64: equal for equal logits, and falling with them
    top_p: float,
    top_k: int | None,
) -> Tensor:  # (N, V) float64
    """Sets to zero what is not among the `top_k` likeliest tokens, or not needed for `top_p` of the row's mass.

    The nucleus is the fewest likeliest tokens whose mass reaches `top_p`: at least one. Of equally likely tokens the
    first are kept.
    """
    if top_p < 1:
        mass = mass * _nucleus(logits, mass, top_p)
    if top_k is not None:
        least = logits.topk(top_k, dim=-1).values[:, -1:]
        mass = mass * _from(logits, least, top_k - (logits > least).sum(-1, keepdim=True))
    return mass


def _nucleus(logits: Tensor, mass: Tensor, top_p: float) -> Tensor:  # (N, V) bool
    """Marks each row's nucleus, whose least likely token is found by bisection: sorting a vocabulary takes longer.

    Read as integers, the bits of numbers are in the order of the numbers once those of negative ones are turned round,
    so there are as many steps as bits, and nothing is rounded. Most nuclei are among the first tokens, which are sorted
    beforehand; a CPU then leaves the steps out, while a GPU would wait longer to know that than it takes to do them.
    """
    whole = torch.int32 if logits.dtype == torch.float32 else torch.int64
    bits = (logits + 0.0).view(whole)  # which makes 0 of -0
    order = torch.where(bits < 0, bits ^ torch.iinfo(whole).max, bits)
    wanted = top_p * mass.sum(-1, keepdim=True)
    first, places = order.topk(min(SORTED, order.shape[-1]), dim=-1)
    found = mass.gather(1, places).cumsum(-1) >= wanted  # (N, SORTED)
    is_among = found.any(-1, keepdim=True)
    least = first.gather(1, found.int().argmax(-1, keepdim=True))
    low = torch.where(is_among, least, order.amin(-1, keepdim=True))
    high = torch.where(is_among, least, first[:, -1:])
    for _ in range(torch.iinfo(whole).bits):
        if order.device.type == "cpu" and torch.equal(low, high):
            break
        middle = (low | high) - ((low ^ high) >> 1)  # rounded up, without an overflow
        is_enough = torch.where(order >= middle, mass, 0.0).sum(-1, keepdim=True) >= wanted
        low, high = torch.where(is_enough, middle, low), torch.where(is_enough, high, middle - 1)
    one = torch.where(order == low, mass, 0.0).amax(-1, keepdim=True)
    missing = wanted - torch.where(order > low, mass, 0.0).sum(-1, keepdim=True)
    return _from(order, low, (missing / one).ceil())


def _from(values: Tensor, least: Tensor, equals: Tensor) -> Tensor:  # (N, V), (N, 1), (N, 1) -> (N, V) bool
    """Marks what is larger than the least, and the first so many of its equals."""
    equal = values == least
    return (values > least) | (equal & (equal.cumsum(-1) <= equals))
