"""The network of a family: a stock transformers class without the causal mask, from config.json to its weights' places.

No code of a checkpoint is run. config.json becomes the arguments of a stock configuration. What such a configuration
cannot say is refused.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from tasks.gdsd.denoiser.families.base import Architecture, Family, Values
from tasks.gdsd.errors import CheckpointError

Network: TypeAlias = LlamaForCausalLM | Qwen2ForCausalLM | Qwen3ForCausalLM
STOCK: dict[Architecture, tuple[type[PretrainedConfig], Callable[..., Network]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}

ROTATED = "sdpa_rotated_in_float32"


def precision(family: Family, device: torch.device) -> torch.dtype:
    """Returns the precision in which weights are read where none is asked for."""
    return torch.bfloat16 if device.type == "cuda" and family.name != "tiny" else torch.float32


def build(family: Family, values: Values) -> Network:
    """Builds a family's network on the meta device: all shapes, no weights.

    Raises:
        CheckpointError: config.json lacks something, or describes another computation.
    """
    arguments = family.configure(values)
    shape_class, network_class = STOCK[family.architecture]
    try:
        shape = shape_class.from_dict(arguments)
        shape.is_causal = False
        if family.rotates_in_float32:
            shape._attn_implementation = ROTATED
        with torch.device("meta"):
            network = network_class(shape)
    except Exception as error:  # the library validates with errors of its own
        raise CheckpointError(f"config.json is refused: {type(error).__name__}: {error}") from error
    if any(getattr(layer.self_attn, "sliding_window", None) is not None for layer in network.model.layers):
        raise CheckpointError("config.json is refused: it asks for sliding windows")
    return network


def finish(network: Network, family: Family, device: torch.device) -> None:
    """Makes what is not among the weights: rotary frequencies, always float32 and computed on the CPU, and the tie."""
    with torch.device("cpu"):
        rotary = Float32Rotary if family.rotates_in_float32 else type(network.model.rotary_emb)
        network.model.rotary_emb = rotary(network.config).to(device)  # type: ignore[arg-type]  # its own configuration
    network.tie_weights()


class Float32Rotary(LlamaRotaryEmbedding):
    """Gives cosines and sines in float32, so that q and k are rotated in float32 whatever the weights are."""

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        # Of `x` only the device and the dtype are read.
        cosines, sines = super().forward(x.new_empty(0, dtype=torch.float32), position_ids)
        return (cosines, sines) if x.dtype != torch.float64 else (cosines.to(x.dtype), sines.to(x.dtype))


def rotated_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: object,  # whatever this version of the library passes on
) -> tuple[Tensor, None]:
    """Attends in the precision of the values, to which queries and keys are rounded only after their rotation."""
    query, key = query.to(value.dtype), key.to(value.dtype)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)  # type: ignore[arg-type]  # its own


AttentionInterface.register(ROTATED, rotated_attention)
AttentionMaskInterface.register(ROTATED, sdpa_mask)
