"""Adapted maps W x + B A x + b in half precision: the products are summed before they are rounded.

A half-precision W x to which B A x is added, in whatever precision, loses most of what is below half an ulp of it: an
early update, of which scores in training would say as little as samples. So both products are summed in one
accumulator, which is rounded once. Training and sampling use the same sum, so that they are of the same policy.
"""

import torch
from peft.tuners.lora import Linear
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


class AdaptedLinear(Linear):
    """peft's adapted map, which sums as `total` does where it computes in half precision."""

    def forward(
        self,
        x: Tensor,  # (..., n)
    ) -> Tensor:  # (..., m)
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        if self.disable_adapters or dtype not in (torch.bfloat16, torch.float16):
            result: Tensor = super().forward(x)
            return result
        base = self.get_base_layer()
        assert isinstance(base, torch.nn.Linear)  # the only maps that are adapted
        (adapter,) = self.lora_A
        down = self.lora_A[adapter].get_parameter("weight").to(dtype)
        up = (self.lora_B[adapter].get_parameter("weight") * self.scaling[adapter]).to(dtype)
        return total(x.to(dtype), base, down, up)
