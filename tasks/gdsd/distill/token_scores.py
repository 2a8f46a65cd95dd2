"""Token scores from hidden states: what the denoiser says of one token, without the (R, V) logits of R tokens.

With logits z = W h for a head W the readouts of token y are

    log_prob      z[y] - logsumexp(z)
    centred       z[y] - mean(z): token logit centralisation (TLC) of arXiv 2605.29398
    centred_topk  z[y] - mean(z[c] for c in a fixed set of candidates)

A mean of logits is the logit of a mean row, so the centred readouts need a few head rows, O(D) or O(k D) per token.
`log_prob` needs all logits, but only a block of the vocabulary at a time.

Scores are float32, or float64 where the hidden states or the head are. A frozen head may be bfloat16: only the rows in
use are cast. Shape letters: R rows that predict a hidden token, V vocabulary, D hidden width, k candidates.
"""

from collections.abc import Iterator
from typing import assert_never

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction, once_differentiable
from torch.nn import functional

from tasks.gdsd.config.objective import Readout
from tasks.gdsd.denoiser.head import Head, rows_per_block


def read(
    readout: Readout,
    hidden: Tensor,  # (R, D): rows that predict a hidden token
    head: Head,
    tokens: Tensor,  # (R,) int64
    candidates: Tensor | None = None,  # (R, k) int: `centred_topk` needs it, the others do not look at it
) -> Tensor:  # (R,)
    """Scores each token by the readout of that name.

    Raises:
        ValueError: `centred_topk` without candidates.
    """
    match readout:
        case "log_prob":
            return log_prob(hidden, head, tokens)
        case "centred":
            return centred(hidden, head, tokens)
        case "centred_topk":
            if candidates is None:
                raise ValueError(
                    f"The readout centred_topk got no candidates for its {len(tokens)} tokens, so there is no mean to "
                    "subtract. Pass the old policy's `top_tokens`, the same for the trained, old and reference policy."
                )
            return centred_topk(hidden, head, tokens, candidates)
        case _:
            assert_never(readout)


def log_prob(
    hidden: Tensor,  # (R, D)
    head: Head,
    tokens: Tensor,  # (R,) int64
) -> Tensor:  # (R,)
    """Scores each token by its log-probability, its logit less the log-normaliser."""
    dtype = head.precision(hidden)
    hidden, head = hidden.to(dtype), head.cast_where_trained(dtype)
    if not torch.is_grad_enabled():
        return _log_prob(hidden, head, tokens, with_slope=False)[0]
    score: Tensor = _LogProb.apply(hidden, head.weight, tokens)  # type: ignore[no-untyped-call]  # torch's
    return score


def centred(
    hidden: Tensor,  # (R, D)
    head: Head,
    tokens: Tensor,  # (R,) int64
) -> Tensor:  # (R,)
    """Scores each token by its logit less the mean logit over the vocabulary, in O(D) per token.

    z[y] - mean(z) = h . (W[y] - mean(W)): the softmax normaliser cancels and the logits never exist.
    """
    dtype = head.precision(hidden)
    hidden, head = hidden.to(dtype), head.cast_where_trained(dtype)
    return _logit_above(hidden, head, tokens, head.mean_row(dtype))


def centred_topk(
    hidden: Tensor,  # (R, D)
    head: Head,
    tokens: Tensor,  # (R,) int64
    candidates: Tensor,  # (R, k) int32 or int64, the same for the trained, old and reference policy
) -> Tensor:  # (R,)
    """Scores each token by its logit less the mean logit of its row's candidates, in O(k D) per token."""
    dtype = head.precision(hidden)
    hidden, head = hidden.to(dtype), head.cast_where_trained(dtype)
    return _logit_above(hidden, head, tokens, _mean_rows(head.weight, candidates, dtype))


@torch.no_grad()
def top_tokens(
    hidden: Tensor,  # (R, D)
    head: Head,
    k: int,
) -> Tensor:  # (R, k) int64
    """Returns each row's k tokens of highest logits, in ascending order; of tokens that tie, the lower ones.

    Raises:
        ValueError: the vocabulary has fewer than k tokens.
    """
    if not 1 <= k <= len(head.weight):
        raise ValueError(
            f"{k} candidates were asked for, but a set of candidates has 1 to {len(head.weight)} tokens, "
            "the size of the vocabulary."
        )
    hidden = hidden.to(head.precision(hidden))
    best = hidden.new_empty(len(hidden), 0)  # (R, up to k): the highest logits of the blocks so far
    found = hidden.new_empty(len(hidden), 0, dtype=torch.int64)  # their tokens
    for part, weight in head.blocks(len(hidden), hidden.dtype):
        logits = torch.cat([best, functional.linear(hidden, weight)], 1)  # (R, up to k + v)
        places = _highest(logits, min(k, logits.shape[1]))
        best = logits.gather(1, places)
        block = torch.arange(part.start, part.stop, device=hidden.device).expand(len(hidden), -1)
        found = torch.cat([found, block], 1).gather(1, places)
    return found


def _highest(
    values: Tensor,  # (R, n)
    k: int,
) -> Tensor:  # (R, k) int64
    """Returns the places of each row's k highest values, in ascending order; ties go to the lower places.

    `topk` finds the threshold only: which of several tied places it returns depends on the device.
    """
    threshold = values.topk(k, sorted=False).values.amin(1, keepdim=True)  # (R, 1)
    above = values > threshold
    tied = ~(above | (values < threshold))  # NaN ties with everything, so each row keeps exactly k
    room = k - above.sum(1, keepdim=True)
    kept = above | (tied & (tied.cumsum(1) <= room))
    return kept.nonzero()[:, 1].view(-1, k)


def _logit_above(
    hidden: Tensor,  # (R, D)
    head: Head,
    tokens: Tensor,  # (R,)
    row: Tensor | float,  # (D,) or (R, D)
) -> Tensor:  # (R,)
    """Returns z[y] less the logit of another head row.

    Rows are subtracted before the product: a component that all rows share cancels while it is still exact.
    """
    rows = functional.embedding(tokens, head.weight).to(hidden.dtype)  # (R, D), a new tensor
    return (hidden * rows.sub_(row)).sum(1)


def _mean_rows(
    table: Tensor,  # (V, D)
    candidates: Tensor,  # (R, k)
    dtype: torch.dtype,
) -> Tensor:  # (R, D)
    """Returns the mean of each set of table rows, without the (R, k, D) rows."""
    if table.dtype == dtype:
        return functional.embedding_bag(candidates, table, mode="mean")
    # `embedding_bag` would round the mean to the table's precision: gather and cast a few sets at a time.
    step = rows_per_block(dtype, candidates.shape[1] * table.shape[1])
    return torch.cat([functional.embedding(part, table).to(dtype).mean(1) for part in candidates.split(step)])


def _log_prob(
    hidden: Tensor,  # (R, D)
    head: Head,
    tokens: Tensor,  # (R,)
    with_slope: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:  # (R,), (R,), (R, D)
    """Returns scores, log-normalisers and, on demand, W[y] - sum_v p[v] W[v], the gradient by the hidden states.

    One pass over the vocabulary, in which each exponential is taken once (arXiv 1805.02867): what was summed so far
    shrinks where a higher logit appears.
    """
    top = hidden.new_full((len(hidden),), -torch.inf)  # the highest logit so far
    total = torch.zeros_like(top)  # sum_v exp(z[v] - top)
    mean = torch.zeros_like(hidden) if with_slope else None  # sum_v exp(z[v] - top) W[v], and p[v] in the end
    for _, weight, logits in _products(hidden, head):
        before, top = top, torch.maximum(top, logits.amax(1))
        shrink = (before - top).exp()
        powers = logits.sub_(top[:, None]).exp_()
        total = total * shrink + powers.sum(1)
        if mean is not None:
            mean.mul_(shrink[:, None]).addmm_(powers, weight)
    log_total = top + total.log()
    score = _logit_above(hidden, head, tokens, 0.0) - log_total
    if mean is None:
        return score, log_total, None
    return score, log_total, functional.embedding(tokens, head.weight).to(mean.dtype) - mean.div_(total[:, None])


def _products(
    hidden: Tensor,  # (R, D)
    head: Head,
) -> Iterator[tuple[slice, Tensor, Tensor]]:  # tokens, (v, D), (R, v)
    """Gives block by block of the vocabulary its tokens, head rows and logits; a block's logits take the last one's
    place, since new memory costs as much time as a pass over it."""
    memory: Tensor | None = None
    for part, weight in head.blocks(len(hidden), hidden.dtype):
        if memory is None:  # the first block is the largest
            memory = hidden.new_empty(len(hidden) * len(weight))
        place = memory[: len(hidden) * len(weight)].view(len(hidden), len(weight))
        yield part, weight, torch.mm(hidden, weight.T, out=place)


class _LogProb(torch.autograd.Function):
    """Log-probabilities whose gradients hold a block of the logits at a time.

    A score is one number, so its gradient by the hidden state can be computed with it and kept instead of the logits,
    (R, D) for (R, V): a frozen head costs the two products of the dense computation. Only for a trained one are the
    probabilities computed again: four products for the dense three.
    """

    @staticmethod
    def forward(
        ctx: BackwardCFunction,
        hidden: Tensor,  # (R, D)
        weight: Tensor,  # (V, D)
        tokens: Tensor,  # (R,)
    ) -> Tensor:  # (R,)
        wanted: tuple[bool, ...] = ctx.needs_input_grad
        score, log_total, slope = _log_prob(hidden, Head(weight), tokens, with_slope=wanted[0])
        for_trained = (hidden, weight, tokens, log_total) if wanted[1] else ()
        ctx.save_for_backward(slope, *for_trained)  # type: ignore[arg-type]  # None is allowed
        return score

    @staticmethod
    @once_differentiable
    def backward(
        ctx: BackwardCFunction,
        gradient: Tensor,  # (R,)
    ) -> tuple[Tensor | None, Tensor | None, None]:
        gradient = gradient[:, None]
        saved: tuple[Tensor, ...] = ctx.saved_tensors
        wanted: tuple[bool, ...] = ctx.needs_input_grad
        of_hidden = gradient * saved[0] if wanted[0] else None
        if not wanted[1]:
            return of_hidden, None, None
        _, hidden, weight, tokens, log_total = saved
        # 1[v = y] - p[v] times gradient and hidden state, which are multiplied where they are narrow.
        pull = gradient * hidden  # (R, D)
        push = -pull
        of_weight = torch.empty_like(weight)
        for part, _, logits in _products(hidden, Head(weight)):
            probabilities = logits.sub_(log_total[:, None]).exp_()
            torch.mm(probabilities.T, push, out=of_weight[part])
        of_weight.index_put_((tokens,), pull, accumulate=True)
        return of_hidden, of_weight, None
