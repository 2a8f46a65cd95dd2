"""The architectures written out in plain float64, apart from any library's model code, for tests to compare with."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Weights = dict[str, Tensor]


def norm(
    x: Tensor,  # (..., D)
    weight: Tensor,  # (D,)
    epsilon: float,
) -> Tensor:  # (..., D)
    return weight * x / (x.square().mean(-1, keepdim=True) + epsilon).sqrt()


def rotate(
    x: Tensor,  # (B, T, H, d)
    theta: float,
) -> Tensor:  # (B, T, H, d)
    """Turns the pair of components (j, j + d / 2) of position t by t / theta ** (2 j / d)."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[1])[:, None] * theta ** (
        -torch.arange(half, dtype=torch.float64) / half
    )  # (T, d / 2)
    turns = torch.polar(torch.ones_like(angles), angles)[None, :, None]  # (1, T, 1, d / 2)
    turned = torch.complex(x[..., :half], x[..., half:]) * turns
    return torch.cat([turned.real, turned.imag], -1)


def attend(
    queries: Tensor,  # (B, T, H, d)
    keys: Tensor,  # (B, T, G, d)
    values: Tensor,  # (B, T, G, d)
    seen: Tensor,  # (B, T) bool
) -> Tensor:  # (B, T, H d)
    """Attends to all that is seen, on both sides; H / G query heads in a row share keys and values."""
    share = queries.shape[2] // keys.shape[2]
    heads = []
    for head in range(queries.shape[2]):
        products = queries[:, :, head] @ keys[:, :, head // share].transpose(1, 2) / math.sqrt(queries.shape[-1])
        products = products.masked_fill(~seen[:, None], -math.inf)  # (B, T, T)
        heads.append(products.softmax(-1) @ values[:, :, head // share])
    return torch.cat(heads, -1)


def swiglu(
    x: Tensor,  # (..., D)
    gate: Tensor,  # (F, D)
    up: Tensor,  # (F, D)
    down: Tensor,  # (D, F)
) -> Tensor:  # (..., D)
    gated = x @ gate.T
    return (gated * gated.sigmoid() * (x @ up.T)) @ down.T


def transformer(
    x: Tensor,  # (B, T, D)
    layers: int,
    attention: Callable[[int, Tensor], Tensor],  # of a layer's number and its normalised input
    part: Callable[[int, str], Tensor],  # weights of a layer: norm_1, norm_2, gate, up, down
    epsilon: float,
) -> Tensor:  # (B, T, D)
    """Pre-norm blocks, each an attention and a gated map beside the residual stream."""
    for layer in range(layers):
        x = x + attention(layer, norm(x, part(layer, "norm_1"), epsilon))
        inner = norm(x, part(layer, "norm_2"), epsilon)
        x = x + swiglu(inner, part(layer, "gate"), part(layer, "up"), part(layer, "down"))
    return x


def split(x: Tensor, heads: int) -> Tensor:  # (B, T, heads d) -> (B, T, heads, d)
    return x.unflatten(-1, (heads, -1))


def in_float64(weights: Weights) -> Weights:
    return {name: tensor.double() for name, tensor in weights.items()}


STOCK = {
    "norm_1": "input_layernorm",
    "norm_2": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


def stock(weights: Weights, prefix: str = "model.layers") -> Callable[[int, str], Tensor]:
    return lambda layer, name: weights[f"{prefix}.{layer}.{STOCK[name]}.weight"]
