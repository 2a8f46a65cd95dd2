"""From the states of hidden tokens to the tokens drawn for them, and how early each is to be unmasked.

Rows of logits are made only where a token is hidden, and worked on a few at a time, so that what is held beside them
stays small. One uniform number per row drives the draw by inverting the cumulative distribution in the order of the
vocabulary: no noise of the vocabulary's size is made, and the same number gives the same token wherever it is drawn.

A vocabulary of more than CHUNK tokens is cut into chunks. Probabilities are computed in float32 and summed by chunk,
the sums are added up in float64, and the token is looked for in the one chunk that is hit. Numbers in float32 move the
probability of each token, rare or not, by a few millionths of itself, which is no more than the logits' rounding does.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tasks.gdsd.denoiser.head import Head

LOGITS_BYTES = 2**28  # of logits at a time
# Of probabilities at a time, counted in float64: within the cache of a CPU, and enough to keep a GPU busy.
CHUNK_BYTES = {"cpu": 2**24, "cuda": 2**27}

CHUNK = 512  # tokens of the vocabulary whose probabilities are summed first
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
    peak, tokens = logits.max(-1) if rules.temperature == 0 else (logits.amax(-1), None)  # the first of equals
    below = logits.to(logits.dtype if logits.shape[1] > CHUNK else torch.float64, copy=True).sub_(peak[:, None])
    heat = rules.temperature or 1.0
    by_confidence = rules.order == "confidence"
    # The mass of all tokens at temperature 1, from which confidence is taken.
    whole = _total(below.exp()) if by_confidence and heat != 1 else None
    mass = (below if heat == 1 else below.div_(heat)).exp_()
    if whole is None and by_confidence:
        whole = _total(mass)
    kept = None
    if rules.is_filtered:
        kept, mass = keep_likeliest(logits, mass, rules.top_p, rules.top_k)
    if tokens is None:
        tokens = invert(mass, uniform)
        tokens = tokens if kept is None else kept.gather(1, tokens[:, None]).squeeze(1)
    if whole is not None:
        return tokens, (logits.gather(1, tokens[:, None]).squeeze(1).double() - peak).exp() / whole
    total = _total(mass)
    return tokens, _total(torch.xlogy(mass, mass)) / total - total.log()


def uncertainty(
    ranks: Tensor,  # float64
    order: Literal["confidence", "entropy"],
) -> Tensor:  # float32, of the same shape
    """Returns what the ranks of `choose` say in nats: -log p of the tokens, or the entropies they were drawn with."""
    return (-ranks.log() if order == "confidence" else -ranks).float()


def invert(
    mass: Tensor,  # (N, V), not negative; its rows need not add up to 1
    uniform: Tensor,  # (N,) float64 in [0, 1)
) -> Tensor:  # (N,) int64
    """Returns the token at which the running sum of a row first exceeds its uniform number's share of the whole.

    A row of NaN, which nothing exceeds, gives the last token: one outside the vocabulary would stop a GPU for good.
    """
    vocabulary = mass.shape[1]
    if vocabulary <= CHUNK:
        return _first_above(mass.double().cumsum(-1), uniform)
    sums = _sums(mass)  # (N, C)
    running = sums.cumsum(-1)
    chunk = _first_above(running, uniform)
    before, own = ((each.gather(1, chunk[:, None]).squeeze(1)) for each in (running - sums, sums))
    # What of the uniform number is left falls in the chunk; sums that were rounded could put it on the chunk's end.
    share = ((uniform * running[:, -1] - before) / own).clamp_(0, 1 - 2.0**-53)
    places = CHUNK * chunk[:, None] + torch.arange(CHUNK, device=mass.device)  # (N, CHUNK)
    inside = mass.gather(1, places.clamp(max=vocabulary - 1)).double().masked_fill_(places >= vocabulary, 0)
    return (CHUNK * chunk + _first_above(inside.cumsum(-1), share)).clamp_(max=vocabulary - 1)


def _first_above(running: Tensor, uniform: Tensor) -> Tensor:  # (N, M), (N,) -> (N,) int64
    # right=True skips what has no mass, which a uniform of exactly 0 would otherwise select.
    found = torch.searchsorted(running, uniform[:, None] * running[:, -1:], right=True).squeeze(-1)
    return found.clamp_(max=running.shape[-1] - 1)


def _sums(values: Tensor) -> Tensor:  # (N, V) -> (N, C) float64: of each chunk
    chunks = values.shape[1] // CHUNK
    cut = CHUNK * chunks
    full, rest = values[:, :cut].unflatten(-1, (chunks, CHUNK)), values[:, cut:]
    return torch.cat([full.sum(-1), rest.sum(-1, keepdim=True)], -1).double()


def _total(values: Tensor) -> Tensor:  # (N, V) -> (N,) float64
    return values.sum(-1) if values.shape[1] <= CHUNK else _sums(values).sum(-1)


def keep_likeliest(
    logits: Tensor,  # (N, V)
    mass: Tensor,  # (N, V): equal for equal logits, and falling with them
    top_p: float,
    top_k: int | None,
) -> tuple[Tensor, Tensor]:  # (N, K) int64, (N, K) of the mass's dtype or float64
    """Returns tokens in the vocabulary's order, and their mass: 0 where a token is left out, as all others are.

    A token is left out that is not among the `top_k` likeliest, or not needed for `top_p` of the row's mass. The
    nucleus is the fewest likeliest tokens whose mass reaches `top_p`: at least one. Of equally likely tokens the first
    are kept.
    """
    vocabulary, wanted = mass.shape[1], top_p * _total(mass)[:, None]
    if top_k is not None or mass.device.type == "cpu":
        kept = _likeliest(logits, min(top_k or SORTED, vocabulary))  # (N, K), the likeliest first
        own = mass.gather(1, kept).double()
        running = own.cumsum(-1)
        # Only a CPU may look whether the nucleus is among them: a GPU would wait longer than the search takes.
        if top_k is not None or bool((running[:, -1:] >= wanted).all()):
            if top_p < 1:
                own = own.where(running - own < wanted, 0.0)
            kept, order = kept.sort(-1)
            return kept, own.gather(1, order)
    return torch.arange(vocabulary, device=mass.device).expand_as(mass), mass * _nucleus(logits, mass, wanted)


def _likeliest(logits: Tensor, count: int) -> Tensor:  # (N, V) -> (N, count) int64
    """Returns the likeliest tokens, the likeliest first; of equals the first, while `topk` takes any of them."""
    values, tokens = logits.topk(count, dim=-1)
    least = values[:, -1:]
    # Negative places, which numbers in float32 hold up to 2^24, so that the largest are the first of the least.
    places = -torch.arange(logits.shape[1], dtype=logits.dtype, device=logits.device)
    equals = torch.where(logits == least, places, -torch.inf).topk(count, dim=-1).indices
    above = values > least
    turn = torch.arange(count, device=logits.device) - above.sum(-1, keepdim=True)
    tokens = torch.where(above, tokens, equals.gather(1, turn.clamp_(min=0))).sort(-1).values
    order = logits.gather(1, tokens).argsort(dim=-1, descending=True, stable=True)
    return tokens.gather(1, order)


def _nucleus(logits: Tensor, mass: Tensor, wanted: Tensor) -> Tensor:  # (N, V), (N, V), (N, 1) -> (N, V) bool
    """Marks each row's nucleus, whose least likely token is found by bisection: sorting a vocabulary takes longer.

    Read as integers, the bits of numbers are in the order of the numbers once those of negative ones are turned round,
    so there are as many steps as bits, and nothing is rounded.
    """
    whole = torch.int32 if logits.dtype == torch.float32 else torch.int64
    bits = (logits + 0.0).view(whole)  # which makes 0 of -0
    order = torch.where(bits < 0, bits ^ torch.iinfo(whole).max, bits)
    low, high = order.amin(-1, keepdim=True), order.amax(-1, keepdim=True)
    for _ in range(torch.iinfo(whole).bits):
        middle = (low | high) - ((low ^ high) >> 1)  # rounded up, without an overflow
        is_enough = _total(torch.where(order >= middle, mass, 0.0))[:, None] >= wanted
        low, high = torch.where(is_enough, middle, low), torch.where(is_enough, high, middle - 1)
    one = torch.where(order == low, mass, 0.0).amax(-1, keepdim=True)
    missing = wanted - _total(torch.where(order > low, mass, 0.0))[:, None]
    equal = order == low
    return (order > low) | (equal & (equal.cumsum(-1) <= (missing / one).ceil()))
