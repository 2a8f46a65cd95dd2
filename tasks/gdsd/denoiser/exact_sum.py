"""Adapted maps W x + B A x + b: the products are summed before they are rounded.

If B A x is added to a W x that was rounded to half precision, most of what is below half an ulp of W x is lost. Half
an ulp of a bfloat16 weight of 0.02 is 6e-5, and an early update is 1e-6. Scores and samples would hardly show it. So
both products are summed in one accumulator, which is rounded once. That is also the least work in any precision: what
scales the adapter does so to B, and nothing passes over all outputs but the two products. Training (`AdaptedLinear`)
and sampling (`Beside`) use the same sum, so both are of the same policy. Where the base is float32, the adapter is
merged for sampling.

This file stands apart from the rest of the adapter, since it imports peft. That takes seconds, which a policy without
an adapter does not need.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft.tuners.lora import Linear
from torch import Tensor
from torch.autograd.function import BackwardCFunction, once_differentiable

from tasks.gdsd.denoiser import quantization
from tasks.gdsd.denoiser.networks import Network

MERGED = (torch.float32, torch.float64)  # the precisions of a base into which an adapter is merged for sampling


def total(
    x: Tensor,  # (..., n)
    base: torch.nn.Linear,  # frozen: W and b
    down: Tensor,  # (r, n), as x: A
    up: Tensor,  # (m, r), as x: alpha / r B
) -> Tensor:  # (..., m)
    """Returns W x + B A x + b. For a backward pass it keeps x, A x and what A and B are here, and never W anew."""
    rows = x.flatten(0, -2)  # (N, n)
    if torch.is_grad_enabled():
        out: Tensor = _Total.apply(rows, base, down, up)  # type: ignore[no-untyped-call]  # torch has no type for it
    else:
        out, _ = _total(rows, base, down, up)
    return out.unflatten(0, x.shape[:-1])


def _total(
    rows: Tensor,  # (N, n)
    base: torch.nn.Linear,
    down: Tensor,
    up: Tensor,
) -> tuple[Tensor, Tensor]:  # (N, m), (N, r)
    """Returns the sum and A x."""
    low = rows @ down.T  # (N, r)
    out = (low @ up.T).addmm_(rows, _weight(base, rows.dtype).T)  # (N, m)
    if base.bias is not None:
        out += base.bias
    return out, low


def _weight(base: torch.nn.Linear, dtype: torch.dtype) -> Tensor:  # (m, n)
    weight = quantization.dense(base) if base.weight.dtype == quantization.PACKED else base.weight
    return weight.to(dtype)


class _Total(torch.autograd.Function):
    """The sum whose gradient by x is one accumulator as well. The map is asked for W anew, as it may be packed."""

    @staticmethod
    def forward(
        ctx: BackwardCFunction,
        rows: Tensor,  # (N, n)
        base: torch.nn.Linear,
        down: Tensor,
        up: Tensor,
    ) -> Tensor:  # (N, m)
        out, low = _total(rows, base, down, up)
        ctx.base = base  # type: ignore[attr-defined]  # it takes any
        ctx.save_for_backward(rows, low, down, up)
        return out

    @staticmethod
    @once_differentiable
    def backward(
        ctx: BackwardCFunction,
        gradient: Tensor,  # (N, m)
    ) -> tuple[Tensor | None, None, Tensor, Tensor]:
        saved: tuple[Tensor, ...] = ctx.saved_tensors
        rows, low, down, up = saved
        of_low = gradient @ up  # (N, r)
        of_rows = None
        if ctx.needs_input_grad[0]:
            of_rows = (of_low @ down).addmm_(gradient, _weight(ctx.base, gradient.dtype))  # type: ignore[attr-defined]
        return of_rows, None, of_low.T @ rows, (low.T @ gradient).T


class AdaptedLinear(Linear):
    """peft's adapted map, which sums as `total` does.

    Switched off, it is what the run began with: W alone, or W and the adapter of an earlier run.
    """

    began: tuple[Tensor, Tensor] | None = None  # A and B of that adapter

    def forward(
        self,
        x: Tensor,  # (..., n)
    ) -> Tensor:  # (..., m)
        base, factors = self.base(), self.began if self.disable_adapters else self.factors()
        if factors is None:
            alone: Tensor = base(x)
            return alone
        device, (down, up) = x.device.type, factors
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        return total(x.to(dtype), base, down.to(dtype), (up * self.scale).to(dtype))

    def base(self) -> torch.nn.Linear:
        """Returns W and b."""
        base = self.get_base_layer()
        assert isinstance(base, torch.nn.Linear)  # the only maps that are adapted
        return base

    def factors(self) -> tuple[torch.nn.Parameter, torch.nn.Parameter]:  # (r, n), (m, r)
        """Returns A and B."""
        (adapter,) = self.lora_A
        return self.lora_A[adapter].get_parameter("weight"), self.lora_B[adapter].get_parameter("weight")

    @property
    def scale(self) -> float:
        """alpha / r."""
        return float(next(iter(self.scaling.values())))


class Beside(torch.nn.Module):
    """A frozen map W x + B A x + b in the base's precision."""

    def __init__(self, base: torch.nn.Linear, down: Tensor, up: Tensor):
        super().__init__()
        self.base = base
        dtype = quantization.precision(base)
        self.down = torch.nn.Parameter(down.to(dtype), requires_grad=False)  # (r, n)
        self.up = torch.nn.Parameter(up.to(dtype), requires_grad=False)  # (m, r)

    def forward(
        self,
        x: Tensor,  # (..., n)
    ) -> Tensor:  # (..., m)
        return total(x, self.base, self.down, self.up)


@torch.no_grad()
def settle(network: Network) -> None:
    """Replaces the adapted maps by what samples at the least cost; there is no way back.

    Raises:
        ValueError: the adapter is switched off.
    """
    layers = adapted(network)
    if any(layer.disable_adapters for layer in layers.values()):
        raise ValueError(
            "the adapter is switched off, so what would be frozen is not the policy; leave base_only first"
        )
    for name in [*layers]:
        layer = layers.pop(name)  # so that its weights are gone when the next one is rounded
        base, (down, up) = layer.base(), layer.factors()
        if base.weight.dtype in MERGED:
            base.weight.add_(up * layer.scale @ down)
            network.set_submodule(name, base)
        else:
            network.set_submodule(name, Beside(base, down, up * layer.scale))


@contextmanager
def settled(network: Network) -> Iterator[None]:
    """Inside, the adapted maps are as `settle` leaves them; afterwards they are what they were, bit for bit.

    Raises:
        ValueError: see `settle`.
    """
    layers = adapted(network)
    weights = {
        name: layer.base().weight.detach().clone()
        for name, layer in layers.items()
        if layer.base().weight.dtype in MERGED  # from a sum, a difference would not lead back
    }
    settle(network)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, layer in layers.items():
                if name in weights:
                    layer.base().weight.copy_(weights[name])
                network.set_submodule(name, layer)


@torch.no_grad()
def merge(network: Network) -> None:
    """Replaces the adapted maps by W + alpha / r B A, which is summed in float32 and rounded once to W's precision."""
    for name, layer in adapted(network).items():
        base, (down, up) = layer.base(), layer.factors()
        base.weight.copy_(base.weight.to(up.dtype) + up * layer.scale @ down)
        network.set_submodule(name, base)
    vars(network).pop("peft_config")  # by which peft would take the next adapter for a second one


def adapted(network: Network) -> dict[str, AdaptedLinear]:
    """Returns the adapted maps by name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, AdaptedLinear)}
