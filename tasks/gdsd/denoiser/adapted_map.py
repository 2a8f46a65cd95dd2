"""Adapted maps W x + B A x + b in half precision: the products are summed before they are rounded.

A half-precision W x to which B A x is added, in whatever precision, loses most of what is below half an ulp of it: an
early update, of which scores in training would say as little as samples. So both products are summed in one
accumulator, which is rounded once. Training and sampling use the same sum, so that they are of the same policy.
"""

import torch
from torch import Tensor

from tasks.gdsd.denoiser.four_bits import FourBitLinear


def total(
    x: Tensor,  # (..., n), in half precision
    base: torch.nn.Linear,  # frozen: W and b
    down: Tensor,  # (r, n), as x: A
    up: Tensor,  # (m, r), as x: alpha / r B
) -> Tensor:  # (..., m)
    """Returns W x + B A x + b. For a backward pass it keeps x, A x and what A and B are here, and never W anew."""
    rows = x.flatten(0, -2)  # (N, n)
    out = (rows @ down.T) @ up.T  # (N, m)
    if isinstance(base, FourBitLinear):
        out = base.add_product(out, rows)
    else:
        out.addmm_(rows, base.weight.to(rows.dtype).T)
    if base.bias is not None:
        out += base.bias
    return out.unflatten(0, x.shape[:-1])
