"""Reads the network at some places only: sampling computes what it looks at, and leaves the rest out.

The blocks are the stock ones (Llama, Qwen2, Qwen3), called part by part. The last block's queries and MLP are left out
where no token is to be predicted, and so is the head. That changes no result. `KeyValues` leaves out more, and does
change it: keys and values of the places outside `part` stay as they were computed in an earlier call, when the canvas
had more hidden tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias, cast

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from transformers.models.llama.modeling_llama import LlamaAttention

from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.denoiser.last_block import attend, rows_before, signed
from tasks.gdsd.denoiser.networks import Network
from tasks.gdsd.errors import ConfigError

Read: TypeAlias = Callable[[Tensor, Tensor | None, Tensor], Tensor]


@dataclass
class KeyValues:
    """Keys and values of all places in each block, rotated: (B, K, T, W) each."""

    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    def update(self, layer: int, keys: Tensor, values: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        """Puts those of a part in their places, and returns all.

        Where keys are rotated in float32, attention rounds them to the values' precision. They are kept in that.
        """
        keys = keys.to(values.dtype)
        if layer == len(self.keys):
            self.keys.append(keys)
            self.values.append(values)
        else:
            self.keys[layer][:, :, part] = keys
            self.values[layer][:, :, part] = values
        return self.keys[layer], self.values[layer]


def compiled(denoiser: Denoiser) -> Read:
    """Returns a function of (ids, attention, places) that reads the whole canvas by compiled code, see `states_at`.

    It is compiled once for canvases of all lengths, and again where one has no padding or one sequence. Every number of
    places is a shape of its own: keep it the same.

    Raises:
        ConfigError: at the first reading, torch cannot compile it on this machine.
    """
    compile_it: Callable[..., Read] = torch.compile
    # Isolated, or the policies of one process would share the few compilations that torch allows a function.
    quick = compile_it(lambda *canvas: states_at(denoiser, *canvas), dynamic=True, isolate_recompiles=True)

    def read(ids: Tensor, attention: Tensor | None, places: Tensor) -> Tensor:
        try:
            return quick(ids, attention, places.contiguous())
        except TorchDynamoException as error:
            needed = "a C++ compiler (g++)" if denoiser.device.type == "cpu" else "Triton and a C compiler (gcc)"
            raise ConfigError(
                f"engine.compile is true, but torch cannot compile the network here, for which it needs {needed}: "
                f"{' '.join(str(error).partition('Set TORCHDYNAMO')[0].split())}. Install it, or set compile to false"
            ) from error

    return read


def states_at(
    denoiser: Denoiser,
    ids: Tensor,  # (B, T) int64
    attention: Tensor | None,  # (B, T) bool, False on left padding; None where nothing is padded
    places: Tensor,  # (B, R) int64: tokens to predict, in `part`
    part: slice | None = None,  # places whose keys and values are computed; None for all
    kept: KeyValues | None = None,  # those of the other places; filled where it is empty, brought up to date where not
) -> Tensor:  # (B, R, D)
    """Returns the last hidden states that predict some tokens: those of `Denoiser.forward`, where `part` is all.

    Where the row before a token predicts it, that row has to be in `part` as well.

    Raises:
        ValueError: keys and values of the places outside the part were never computed.
    """
    begin, end = (0, ids.shape[1]) if part is None else (part.start, part.stop)
    if end - begin < ids.shape[1] and (kept is None or not kept.keys):
        raise ValueError(
            f"a part, places {begin} to {end} of {ids.shape[1]}, needs keys and values of the others: read all first"
        )
    rows = rows_before(places, attention) if denoiser.family.shifted else places
    network: Network = denoiser.network
    x = network.model.embed_tokens(ids[:, begin:end])  # (B, Q, D)
    positions = torch.arange(begin, end, device=ids.device)[None]
    cosines, sines = network.model.rotary_emb(x, position_ids=positions)  # (1, Q, W)
    sines = signed(sines)
    mask = None if attention is None else attention[:, None, None, :]
    layers = network.model.layers
    for number, layer in enumerate(layers):
        turn = (cosines, sines)
        queries = normed = layer.input_layernorm(x)
        if number == len(layers) - 1:
            inside = rows - begin
            queries, x = take(normed, inside), take(x, inside)
            turn = (cosines[0][inside], sines[0][inside])  # (B, R, W)
        block = cast(LlamaAttention, layer.self_attn)
        keep = None if kept is None else partial(kept.update, number, part=slice(begin, end))
        x = x.add_(block.o_proj(attend(block, normed, queries, (cosines, sines), turn, mask, keep)))
        x = x.add_(layer.mlp(layer.post_attention_layernorm(x)))
    states: Tensor = network.model.norm(x)
    return states


def take(states: Tensor, rows: Tensor) -> Tensor:  # (B, Q, D), (B, R) -> (B, R, D)
    """Returns some rows of each sequence."""
    return states.gather(1, rows[:, :, None].expand(-1, -1, states.shape[-1]))
