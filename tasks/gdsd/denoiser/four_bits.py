"""Frozen weights of 4 bits under an adapter: NF4, the quantiles of a normal distribution (QLoRA, arXiv 2305.14314).

A weight counts as one of 16 levels times the largest magnitude of its block of 64, which is kept in bfloat16: 4.25 bits
a weight. What is computed with is made dense for a product and dropped after it, in the backward pass as well.

(bitsandbytes has the same, with faster kernels. But peft imports it wherever it is installed, and it imports torch's
compiler: a second for every process of every run, most of which train no such model.)
"""

from itertools import pairwise

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from tasks.gdsd.denoiser.networks import Network
from tasks.gdsd.errors import CheckpointError

LEVELS = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
BLOCK = 64
BITS = 4 + 16 / BLOCK  # of a weight
PART = 2**22  # weights that are quantised at once, so that what that takes does not add up


class FourBitLinear(torch.nn.Linear):
    """A frozen linear map of 4-bit weights, two in a byte, the first in the upper half."""

    def __init__(self, linear: torch.nn.Linear, weight: Tensor):
        """Takes the place of a linear map, with its bias.

        Raises:
            CheckpointError: the weights do not fill blocks.
        """
        torch.nn.Module.__init__(self)  # the parent's would allocate the weights
        self.out_features, self.in_features = weight.shape
        if weight.numel() % BLOCK:
            raise CheckpointError(
                f"a linear map of {self.out_features} x {self.in_features} weights does not fill blocks of {BLOCK}, "
                "so they cannot be read in 4 bits; leave policy.adapter.base_bits out"
            )
        self.register_parameter("bias", linear.bias)
        packed, scales = quantise(weight)
        self.weight = torch.nn.Parameter(packed, requires_grad=False)  # (m n / 2,) uint8
        self.scales = torch.nn.Parameter(scales, requires_grad=False)  # (m n / 64,)
        levels = torch.tensor(LEVELS, device=weight.device)
        pairs = torch.cartesian_prod(levels, levels).to(weight.dtype)  # (256, 2): what each byte stands for
        self.register_buffer("pairs", pairs, persistent=False)
        self.pairs: Tensor

    def dense(self) -> Tensor:  # (m, n)
        """Returns the weights, in the precision in which they were read."""
        width = torch.int64 if self.pairs.dtype.itemsize == 4 else torch.int32  # a pair looked up is one number
        found = self.pairs.view(width).flatten()[self.weight.int()].view(self.pairs.dtype)  # (m n,)
        scaled = found.view(-1, BLOCK) * self.scales[:, None].to(found.dtype)
        return scaled.view(self.out_features, self.in_features)

    def forward(self, x: Tensor) -> Tensor:  # (..., n) -> (..., m)
        product: Tensor = _Product.apply(x, None, self)  # type: ignore[no-untyped-call]  # torch has no type for it
        return product if self.bias is None else product + self.bias.to(product.dtype)

    def add_product(
        self,
        total: Tensor,  # (N, m), which may be overwritten
        x: Tensor,  # (N, n), as total
    ) -> Tensor:  # (N, m)
        """Returns the total with x W^T added, without the bias; the sum is rounded once."""
        if not torch.is_grad_enabled():
            return total.addmm_(x, self.dense().to(x.dtype).T)
        added: Tensor = _Product.apply(x, total, self)  # type: ignore[no-untyped-call]  # torch has no type for it
        return added


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:  # (m n / 2,) uint8, (m n / 64,) bfloat16
    """Returns the nearest levels of all weights, packed, and the scales of their blocks."""
    middles = torch.tensor([(low + high) / 2 for low, high in pairwise(LEVELS)], device=weight.device)
    packed, scales = [], []
    for part in weight.detach().flatten().split(PART):
        blocks = part.float().view(-1, BLOCK)
        scale = blocks.abs().amax(1).bfloat16()
        scales.append(scale)
        relative = blocks / scale.float().clamp_min(torch.finfo(torch.float32).tiny)[:, None]
        codes = torch.bucketize(relative, middles, out_int32=True).view(-1, 2).to(torch.uint8)  # (part / 2, 2)
        packed.append(codes[:, 0] * 16 + codes[:, 1])
    return torch.cat(packed), torch.cat(scales)


def is_quantised(name: str, network: Network) -> bool:
    """Says whether a weight is read in 4 bits: those of the blocks' linear maps, where nearly all weights are."""
    module, _, kind = name.rpartition(".")
    inside = name.startswith("model.layers.")
    return inside and kind == "weight" and isinstance(network.get_submodule(module), torch.nn.Linear)


def weights(network: torch.nn.Module) -> int:
    """Counts the weights of a network, two in a byte where they have 4 bits; scales are none."""
    twice = [module for module in network.modules() if isinstance(module, FourBitLinear)]
    packed = sum(module.weight.numel() - module.scales.numel() for module in twice)
    return sum(parameter.numel() for parameter in network.parameters()) + packed


class _Product(torch.autograd.Function):
    """x W^T, or that added to a total, with a frozen W that is made dense again in the backward pass and never kept."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, total: Tensor | None, layer: FourBitLinear) -> Tensor:
        ctx.layer, ctx.dtype, ctx.adds = layer, x.dtype, total is not None  # type: ignore[attr-defined]  # it takes any
        if total is None:
            return torch.nn.functional.linear(x, layer.dense())
        return torch.addmm(total, x, layer.dense().to(x.dtype).T)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None]:
        (gradient,) = gradients
        weight = ctx.layer.dense()  # type: ignore[attr-defined]  # set by forward
        by_x = (gradient @ weight.to(gradient.dtype)).to(ctx.dtype)  # type: ignore[attr-defined]  # also
        return by_x, gradient if ctx.adds else None, None  # type: ignore[attr-defined]  # also
