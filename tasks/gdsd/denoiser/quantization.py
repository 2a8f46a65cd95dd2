"""A base of 4 bits: NF4 (QLoRA, arXiv 2305.14314) by the library bitsandbytes, the extra `quantization` of the project.

Each weight takes 4 bits, and each block of 64 weights has a scale in float32. That is 4.5 bits a weight. Only an
adapter is trained on such weights. For each product they are made dense and then dropped, in the backward pass as well.
"""

from importlib.util import find_spec

import torch
from torch import Tensor

from tasks.gdsd.denoiser.networks import Network
from tasks.gdsd.errors import CheckpointError, ConfigError

PACKED = torch.uint8  # two weights in a byte
BLOCK = 64  # weights that share a scale


def require() -> None:
    """Refuses to read a base in 4 bits where bitsandbytes is not installed.

    Raises:
        ConfigError: naming what installs it.
    """
    if find_spec("bitsandbytes") is None:
        raise ConfigError(
            "policy.adapter.base_bits 4 needs bitsandbytes, which is not installed here; run "
            "`python -m pip install -c constraints.txt bitsandbytes`, build the image with EXTRAS=quantization "
            "(docs/images.md), or leave base_bits out"
        )


def is_quantised(name: str, network: Network) -> bool:
    """Says whether a weight is read in 4 bits: those of the blocks' linear maps are, which hold nearly all weights."""
    module, _, kind = name.rpartition(".")
    inside = name.startswith("model.layers.")
    return inside and kind == "weight" and isinstance(network.get_submodule(module), torch.nn.Linear)


def quantise(
    linear: torch.nn.Linear,
    weight: Tensor,  # (m, n)
) -> torch.nn.Linear:
    """Returns a map with the bias of `linear` and a weight in 4 bits, which computes in the weight's precision.

    Raises:
        CheckpointError: the rows of the weight do not fill blocks.
    """
    from bitsandbytes.nn import Linear4bit, Params4bit

    if weight.shape[1] % BLOCK:  # bitsandbytes 0.50.2 takes wrong scales for such rows on a CPU
        raise CheckpointError(
            f"a linear map of {weight.shape[0]} x {weight.shape[1]} weights has rows that do not fill blocks of "
            f"{BLOCK}, so it cannot be read in 4 bits; leave policy.adapter.base_bits out"
        )
    form = {"quant_type": "nf4", "compress_statistics": False}
    layer = Linear4bit(
        linear.in_features, linear.out_features, bias=False, compute_dtype=weight.dtype, device="meta", **form
    )
    layer.weight = Params4bit(weight, requires_grad=False, module=layer, **form).to(weight.device)
    layer.bias = linear.bias
    # On some CPUs the library would repack the weights at the first product, to what has no backward pass.
    layer.support_avx512bf16_for_cpu = False
    quantised: torch.nn.Linear = layer
    return quantised


def weights(network: torch.nn.Module) -> int:
    """Counts the weights of a network; scales are none."""
    return sum(part.numel() * (2 if part.dtype == PACKED else 1) for part in network.parameters())


def precision(linear: torch.nn.Linear) -> torch.dtype:
    """Returns the precision of a map's weights, or that in which they were read if they have 4 bits now."""
    return dense(linear).dtype if linear.weight.dtype == PACKED else linear.weight.dtype


def dense(linear: torch.nn.Linear) -> Tensor:  # (m, n)
    """Returns weights of 4 bits in the precision in which they were read."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Params4bit

    assert isinstance(linear.weight, Params4bit)  # the only weights of 4 bits
    found: Tensor = dequantize_4bit(linear.weight, linear.weight.quant_state)
    return found
