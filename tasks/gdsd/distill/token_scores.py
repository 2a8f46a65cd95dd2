"""Token scores from hidden states: what the denoiser says of one token, without the (R, V) logits of R tokens.

With logits z = W h + b for a head (W, b) the readouts of token y are

    log_prob      z[y] - logsumexp(z)
    centred       z[y] - mean(z): token logit centralisation (TLC) of arXiv 2605.29398
    centred_topk  z[y] - mean(z[c] for c in a fixed set of candidates)

A mean of logits is the logit of a mean row, so the centred readouts need a few head rows, O(D) or O(k D) per token.
`log_prob` needs all logits, but only a block of the vocabulary at a time.

Scores are float32, or float64 where the hidden states or the head are. A frozen head may be bfloat16: only the rows in
use are cast. Shape letters: R rows that predict a hidden token, V vocabulary, D hidden width, k candidates.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import assert_never

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction, once_differentiable
from torch.nn import functional

from tasks.gdsd.config.objective import Readout

BLOCK_BYTES = 2**25  # bounds a block of logits or of cast head rows: enough for a fast product, small beside a model


@dataclass(frozen=True)
class Head:
    """The linear map from hidden states to logits.

    A frozen head's mean row is computed once and kept, so a Head must not outlive a change of frozen weights.
    """

    weight: Tensor  # (V, D)
    bias: Tensor | None = None  # (V,)

    def precision(self, hidden: Tensor) -> torch.dtype:
        """Returns the dtype of logits and scores: float32, or float64 where the hidden states or the head are."""
        return torch.promote_types(hidden.dtype, torch.promote_types(self.weight.dtype, torch.float32))

    def logits(
        self,
        hidden: Tensor,  # (..., D)
    ) -> Tensor:  # (..., V)
        """Returns all logits, which sampling needs."""
        dtype = self.precision(hidden)
        hidden, head = hidden.to(dtype), self.cast_where_trained(dtype)
        if head.weight.dtype == dtype:
            return functional.linear(hidden, head.weight, None if head.bias is None else head.bias.to(dtype))
        blocks = head.blocks(hidden[..., 0].numel(), dtype)
        return torch.cat([functional.linear(hidden, weight, bias) for _, weight, bias in blocks], -1)

    def blocks(self, rows: int, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
        """Cuts the vocabulary into (tokens, their head rows, their biases), cast to `dtype`.

        Neither a block's head rows nor its logits for so many `rows` exceed BLOCK_BYTES.
        """
        vocabulary, width = self.weight.shape
        step = max(1, BLOCK_BYTES // (dtype.itemsize * max(rows, width)))
        for start in range(0, vocabulary, step):
            part = slice(start, min(start + step, vocabulary))
            yield part, self.weight[part].to(dtype), None if self.bias is None else self.bias[part].to(dtype)

    def cast_where_trained(self, dtype: torch.dtype) -> "Head":
        """Casts what a gradient is wanted of, so that the gradients of a token's many rows add up in that precision."""

        def cast(table: Tensor) -> Tensor:
            return table.to(dtype) if table.requires_grad and torch.is_grad_enabled() else table

        weight, bias = cast(self.weight), None if self.bias is None else cast(self.bias)
        unchanged = weight is self.weight and bias is self.bias
        return self if unchanged else Head(weight, bias)  # the same object, since it keeps the mean row

    def mean_row(self, dtype: torch.dtype) -> Tensor:  # (D,)
        """Returns mean(W) over the vocabulary: differentiable when W is trained, else in O(D) after the first use."""
        return self.weight.mean(0, dtype=dtype) if self.weight.requires_grad else self._frozen_mean_row.to(dtype)

    def mean_bias(self, dtype: torch.dtype) -> Tensor | None:  # ()
        """Returns mean(b) over the vocabulary, or None without a bias; see `mean_row`."""
        if self.bias is None:
            return None
        return self.bias.mean(dtype=dtype) if self.bias.requires_grad else self._frozen_mean_bias.to(dtype)

    @cached_property
    def _frozen_mean_row(self) -> Tensor:  # (D,) float64, good for scores of either precision
        total = self.weight.new_zeros(self.weight.shape[1], dtype=torch.float64)
        for _, rows, _ in self.blocks(1, torch.float64):
            total += rows.sum(0)
        return total / len(self.weight)

    @cached_property
    def _frozen_mean_bias(self) -> Tensor:  # () float64
        assert self.bias is not None
        return self.bias.mean(dtype=torch.float64)


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
    score: Tensor = _LogProb.apply(hidden, head.weight, head.bias, tokens)  # type: ignore[no-untyped-call]  # torch's
    return score


def centred(
    hidden: Tensor,  # (R, D)
    head: Head,
    tokens: Tensor,  # (R,) int64
) -> Tensor:  # (R,)
    """Scores each token by its logit less the mean logit over the vocabulary, in O(D) per token.

    z[y] - mean(z) = h . (W[y] - mean(W)) + b[y] - mean(b): the softmax normaliser cancels and the logits never exist.
    """
    dtype = head.precision(hidden)
    hidden, head = hidden.to(dtype), head.cast_where_trained(dtype)
    return _logit_above(hidden, head, tokens, head.mean_row(dtype), head.mean_bias(dtype))


def centred_topk(
    hidden: Tensor,  # (R, D)
    head: Head,
    tokens: Tensor,  # (R,) int64
    candidates: Tensor,  # (R, k) int32 or int64, the same for the trained, old and reference policy
) -> Tensor:  # (R,)
    """Scores each token by its logit less the mean logit of its row's candidates, in O(k D) per token."""
    dtype = head.precision(hidden)
    hidden, head = hidden.to(dtype), head.cast_where_trained(dtype)
    bias = None if head.bias is None else head.bias[candidates].mean(1, dtype=dtype)  # (R,)
    return _logit_above(hidden, head, tokens, _mean_rows(head.weight, candidates, dtype), bias)


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
    for part, weight, bias in head.blocks(len(hidden), hidden.dtype):
        logits = torch.cat([best, functional.linear(hidden, weight, bias)], 1)  # (R, up to k + v)
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
    bias: Tensor | float | None,  # () or (R,)
) -> Tensor:  # (R,)
    """Returns z[y] less the logit of another head row.

    Rows are subtracted before the product: a component that all rows share cancels while it is still exact.
    """
    rows = functional.embedding(tokens, head.weight).to(hidden.dtype)  # (R, D), a new tensor
    score = (hidden * rows.sub_(row)).sum(1)
    if head.bias is not None and bias is not None:
        score = score + (head.bias[tokens].to(hidden.dtype) - bias)
    return score


def _mean_rows(
    table: Tensor,  # (V, D)
    candidates: Tensor,  # (R, k)
    dtype: torch.dtype,
) -> Tensor:  # (R, D)
    """Returns the mean of each set of table rows, without the (R, k, D) rows."""
    if table.dtype == dtype:
        return functional.embedding_bag(candidates, table, mode="mean")
    # `embedding_bag` would round the mean to the table's precision: gather and cast a few sets at a time.
    step = max(1, BLOCK_BYTES // (dtype.itemsize * candidates.shape[1] * table.shape[1]))
    return torch.cat([functional.embedding(part, table).to(dtype).mean(1) for part in candidates.split(step)])


def _log_prob(
    hidden: Tensor,  # (R, D)
    head: Head,
    tokens: Tensor,  # (R,)
    with_slope: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:  # (R,), (R,), (R, D)
    """Returns scores, log-normalisers and, on demand, W[y] - sum_v p[v] W[v], the gradient by the hidden states.

    One pass over the vocabulary: the mean row of the blocks so far shrinks as their share of the probability does.
    """
    log_total = hidden.new_full((len(hidden),), -torch.inf)
    mean = torch.zeros_like(hidden) if with_slope else None  # sum_v p[v] W[v]
    for _, weight, bias in head.blocks(len(hidden), hidden.dtype):
        logits = functional.linear(hidden, weight, bias)  # (R, v)
        before, log_total = log_total, torch.logaddexp(log_total, logits.logsumexp(1))
        if mean is not None:
            mean *= (before - log_total).exp()[:, None]
            mean.addmm_(logits.sub_(log_total[:, None]).exp_(), weight)
    score = _logit_above(hidden, head, tokens, 0.0, 0.0) - log_total
    return score, log_total, None if mean is None else functional.embedding(tokens, head.weight).to(mean.dtype) - mean


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
        bias: Tensor | None,  # (V,)
        tokens: Tensor,  # (R,)
    ) -> Tensor:  # (R,)
        wanted: tuple[bool, ...] = ctx.needs_input_grad
        score, log_total, slope = _log_prob(hidden, Head(weight, bias), tokens, with_slope=wanted[0])
        for_trained = (hidden, weight, bias, tokens, log_total) if wanted[1] or wanted[2] else ()
        ctx.save_for_backward(slope, *for_trained)  # type: ignore[arg-type]  # None is allowed
        return score

    @staticmethod
    @once_differentiable
    def backward(
        ctx: BackwardCFunction,
        gradient: Tensor,  # (R,)
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        gradient = gradient[:, None]
        saved: tuple[Tensor, ...] = ctx.saved_tensors
        wanted: tuple[bool, ...] = ctx.needs_input_grad
        of_hidden = gradient * saved[0] if wanted[0] else None
        if not (wanted[1] or wanted[2]):
            return of_hidden, None, None, None
        _, hidden, weight, bias, tokens, log_total = saved
        of_weight = torch.empty_like(weight) if wanted[1] else None
        of_bias = torch.empty_like(bias) if wanted[2] else None
        for part, rows, biases in Head(weight, bias).blocks(len(hidden), hidden.dtype):
            logits = functional.linear(hidden, rows, biases)  # (R, v)
            of_logits = logits.sub_(log_total[:, None]).exp_().neg_()  # 1[v = y] - p[v], below
            (here,) = torch.where((tokens >= part.start) & (tokens < part.stop))
            of_logits[here, tokens[here] - part.start] += 1
            of_logits *= gradient
            if of_weight is not None:
                torch.mm(of_logits.T, hidden, out=of_weight[part])
            if of_bias is not None:
                torch.sum(of_logits, 0, out=of_bias[part])
        return of_hidden, of_weight, of_bias, None
