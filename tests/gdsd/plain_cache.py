"""Stock blocks by the book in float64, and stale keys and values: those outside a part are the earlier ones."""

from typing import NamedTuple, Self

import torch
from torch import Tensor

from tasks.gdsd.denoiser.denoiser import Denoiser
from tests.gdsd.official_maths import Weights, attend, in_float64, norm, rotate, split, stock, transformer


class Shape(NamedTuple):
    """What the weights of a network do not say of it."""

    layers: int
    heads: int
    kv_heads: int
    theta: float  # of the rotation
    epsilon: float  # of the norms


class PlainCache:
    """Reads canvases of one network; every block remembers keys and values, rotated.

    A Qwen2 (Dream) has biases on queries, keys and values, a Qwen3 norms of each head's queries and keys.
    """

    def __init__(self, weights: Weights, shape: Shape, is_shifted: bool = False):
        self.weights = in_float64(weights)  # by stock name
        self.shape, self.is_shifted = shape, is_shifted
        self.kept: list[tuple[Tensor, Tensor]] = []

    @classmethod
    def of(cls, denoiser: Denoiser) -> Self:
        config = denoiser.network.config
        shape = Shape(
            config.num_hidden_layers,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.rope_parameters["rope_theta"],
            config.rms_norm_eps,
        )
        return cls(denoiser.network.state_dict(), shape, denoiser.family.shifted)

    def read(
        self,
        ids: Tensor,  # (B, T) int64
        seen: Tensor | None = None,  # (B, T) bool
        part: slice | None = None,  # None: all is read, and nothing remembered from before
    ) -> Tensor:  # (B, T, D): row i predicts token i, right in the part
        """Computes all rows, and puts the remembered keys and values in the place of those outside the part."""
        inside = torch.zeros(ids.shape[1], dtype=torch.bool)
        inside[slice(None) if part is None else part] = True
        seen = torch.ones_like(ids, dtype=torch.bool) if seen is None else seen
        layers, query_heads, kv_heads, theta, epsilon = self.shape
        before, self.kept = self.kept, []

        def attention(layer: int, x: Tensor) -> Tensor:
            place = f"model.layers.{layer}.self_attn"

            def heads(name: str, count: int) -> Tensor:  # (B, T, count, d)
                found = x @ self.weights[f"{place}.{name}_proj.weight"].T
                found = split(found + self.weights.get(f"{place}.{name}_proj.bias", torch.zeros(())), count)
                if f"{place}.{name}_norm.weight" in self.weights:
                    found = norm(found, self.weights[f"{place}.{name}_norm.weight"], epsilon)
                return found if name == "v" else rotate(found, theta)

            queries, keys, values = heads("q", query_heads), heads("k", kv_heads), heads("v", kv_heads)
            if not inside.all():
                now = inside[None, :, None, None]
                keys, values = (torch.where(now, *pair) for pair in zip((keys, values), before[layer], strict=True))
            self.kept.append((keys, values))
            return attend(queries, keys, values, seen) @ self.weights[f"{place}.o_proj.weight"].T

        x = self.weights["model.embed_tokens.weight"][ids]
        x = transformer(x, layers, attention, stock(self.weights), epsilon)
        states = norm(x, self.weights["model.norm.weight"], epsilon)
        return torch.cat([states[:, :1], states[:, :-1]], 1) if self.is_shifted else states
