"""The form in which a policy with an adapter samples: its maps cost and lose as little as they can.

Of a float32 base the adapter is merged into the weights. Half-precision weights would round small updates away (half an
ulp of a bfloat16 weight of 0.02 is 6e-5, an early update 1e-6), so there it stays beside them, in the sum that training
has too, see `adapted_map`: on top of W x this costs two thin products and reads no weight more.
"""

import torch
from torch import Tensor

from tasks.gdsd.denoiser import adapted_map, adapter
from tasks.gdsd.denoiser.four_bits import FourBitLinear
from tasks.gdsd.denoiser.networks import Network


@torch.no_grad()
def settle(network: Network) -> None:
    """Freezes a network and replaces its adapted maps; there is no way back.

    Raises:
        ValueError: the adapter is switched off.
    """
    layers = adapter.adapted_maps(network)
    if any(layer.disable_adapters for layer in layers.values()):
        raise ValueError(
            "the adapter is switched off, so what would be frozen is not the policy; leave base_only first"
        )
    for name in [*layers]:
        layer = layers.pop(name)  # so that its float32 weights are gone when the next one is rounded
        base = layer.get_base_layer()
        (name_of_adapter,) = layer.lora_A
        assert isinstance(base, torch.nn.Linear)  # the only maps that are adapted
        down = layer.lora_A[name_of_adapter].get_parameter("weight")  # (r, n)
        up = layer.lora_B[name_of_adapter].get_parameter("weight") * layer.scaling[name_of_adapter]  # (m, r)
        if base.weight.dtype in (torch.float32, torch.float64):
            base.weight.add_(up @ down)
            network.set_submodule(name, base)
        else:
            network.set_submodule(name, Beside(base, down, up))
    network.requires_grad_(False)


class Beside(torch.nn.Module):
    """A frozen map W x + B A x + b in the base's precision; the sum of the products is rounded once."""

    def __init__(self, base: torch.nn.Linear, down: Tensor, up: Tensor):
        super().__init__()
        self.base = base
        dtype = base.pairs.dtype if isinstance(base, FourBitLinear) else base.weight.dtype
        self.down = torch.nn.Parameter(down.to(dtype), requires_grad=False)  # (r, n)
        self.up = torch.nn.Parameter(up.to(dtype), requires_grad=False)  # (m, r)

    def forward(
        self,
        x: Tensor,  # (..., n)
    ) -> Tensor:  # (..., m)
        return adapted_map.total(x, self.base, self.down, self.up)
