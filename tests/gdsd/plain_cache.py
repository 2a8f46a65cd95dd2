"""Stale keys and values by the book: the whole canvas in float64, where those outside a part are the earlier ones."""

import torch
from torch import Tensor

from tasks.gdsd.denoiser.denoiser import Denoiser
from tests.gdsd.official_maths import attend, in_float64, norm, rotate, split, stock, transformer


class PlainCache:
    """Reads canvases of one denoiser; every block of the network remembers keys and values, rotated."""

    def __init__(self, denoiser: Denoiser):
        self.shape, self.is_shifted = denoiser.network.config.to_dict(), denoiser.family.shifted
        self.weights = in_float64(denoiser.network.state_dict())
        self.kept: list[tuple[Tensor, Tensor]] = []

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
        epsilon, theta = self.shape["rms_norm_eps"], self.shape["rope_parameters"]["rope_theta"]
        before, self.kept = self.kept, []

        def attention(layer: int, x: Tensor) -> Tensor:
            place = f"model.layers.{layer}.self_attn"

            def heads(name: str, count: int, turned: bool) -> Tensor:  # (B, T, count, d)
                found = x @ self.weights[f"{place}.{name}_proj.weight"].T
                found = split(found + self.weights.get(f"{place}.{name}_proj.bias", torch.zeros(())), count)
                if f"{place}.{name}_norm.weight" in self.weights:
                    found = norm(found, self.weights[f"{place}.{name}_norm.weight"], epsilon)
                return rotate(found, theta) if turned else found

            queries = heads("q", self.shape["num_attention_heads"], True)
            keys, values = (heads(name, self.shape["num_key_value_heads"], name == "k") for name in "kv")
            if not inside.all():
                now = inside[None, :, None, None]
                keys, values = (torch.where(now, *pair) for pair in zip((keys, values), before[layer], strict=True))
            self.kept.append((keys, values))
            return attend(queries, keys, values, seen) @ self.weights[f"{place}.o_proj.weight"].T

        x = self.weights["model.embed_tokens.weight"][ids]
        x = transformer(x, self.shape["num_hidden_layers"], attention, stock(self.weights), epsilon)
        states = norm(x, self.weights["model.norm.weight"], epsilon)
        return torch.cat([states[:, :1], states[:, :-1]], 1) if self.is_shifted else states
