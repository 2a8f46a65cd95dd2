"""The head of a denoiser: the linear map from hidden states to logits, whole or a block of the vocabulary at a time.

Shape letters: R rows that predict a hidden token, V vocabulary, D hidden width.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

BLOCK_BYTES = 2**25  # bounds a block of logits or of cast head rows: enough for a fast product, small beside a model


def rows_per_block(dtype: torch.dtype, width: int) -> int:
    """Returns how many rows of so many numbers make a block, at least one."""
    return max(1, BLOCK_BYTES // (dtype.itemsize * width))


@dataclass(frozen=True)
class Head:
    """The linear map from hidden states to logits, which has no bias in any of the stock classes.

    A frozen head's mean row is computed once and kept, so a Head must not outlive a change of frozen weights.
    """

    weight: Tensor  # (V, D)

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
            return functional.linear(hidden, head.weight)
        blocks = head.blocks(hidden[..., 0].numel(), dtype)
        return torch.cat([functional.linear(hidden, weight) for _, weight in blocks], -1)

    def blocks(self, rows: int, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """Cuts the vocabulary into (tokens, their head rows), cast to `dtype`.

        Neither a block's head rows nor its logits for so many `rows` exceed BLOCK_BYTES.
        """
        vocabulary, width = self.weight.shape
        step = rows_per_block(dtype, max(rows, width))
        for start in range(0, vocabulary, step):
            part = slice(start, min(start + step, vocabulary))
            yield part, self.weight[part].to(dtype)

    def cast_where_trained(self, dtype: torch.dtype) -> "Head":
        """Casts what a gradient is wanted of, so that the gradients of a token's many rows add up in that precision."""
        if self.weight.dtype == dtype or not (self.weight.requires_grad and torch.is_grad_enabled()):
            return self  # the same object, since it keeps the mean row
        return Head(self.weight.to(dtype))

    def mean_row(self, dtype: torch.dtype) -> Tensor:  # (D,)
        """Returns mean(W) over the vocabulary: differentiable when W is trained, else in O(D) after the first use."""
        return self.weight.mean(0, dtype=dtype) if self.weight.requires_grad else self._frozen_mean_row.to(dtype)

    @cached_property
    def _frozen_mean_row(self) -> Tensor:  # (D,) float64, good for scores of either precision
        total = self.weight.new_zeros(self.weight.shape[1], dtype=torch.float64)
        for _, rows in self.blocks(1, torch.float64):
            total += rows.sum(0)
        return total / len(self.weight)
