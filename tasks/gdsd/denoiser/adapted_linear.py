"""The layer of an adapter; apart, since a policy without one does not need peft, which takes seconds to import."""

import torch
from peft.tuners.lora import Linear
from torch import Tensor

from tasks.gdsd.denoiser.adapted_map import total


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
