"""Reads the network at some places only: sampling computes what it looks at, and leaves the rest out.

The blocks are the stock ones (Llama, Qwen2, Qwen3), called part by part. The last block's queries and MLP are left out
where no token is to be predicted, and so is the head. That changes no result. `KeyValues` leaves out more, and does
change it: keys and values of the places outside `part` stay as they were computed in an earlier call, when the canvas
had more hidden tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias, cast

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaAttention, rotate_half

from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.denoiser.networks import Network
from tasks.gdsd.errors import ConfigError

Read: TypeAlias = Callable[[Tensor, Tensor | None, Tensor], Tensor]


@dataclass
class KeyValues:
    """Keys and values of all places in each block, rotated: (B, K, T, W) each."""

    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    def update(self, layer: int, keys: Tensor, values: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        """Puts those of a part in their places, and returns all."""
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
    rows = _rows(places, attention) if denoiser.family.shifted else places
    network: Network = denoiser.network
    x = network.model.embed_tokens(ids[:, begin:end])  # (B, Q, D)
    positions = torch.arange(begin, end, device=ids.device)[None]
    cosines, sines = network.model.rotary_emb(x, position_ids=positions)  # (1, Q, W)
    mask = None if attention is None else attention[:, None, None, :]
    layers = network.model.layers
    for number, layer in enumerate(layers):
        queries, turn = None, (cosines, sines)
        normed = layer.input_layernorm(x)
        if number == len(layers) - 1:
            inside = rows - begin
            queries, x = take(normed, inside), take(x, inside)
            turn = (cosines[0][inside], sines[0][inside])  # (B, R, W)
        attention_block = cast(LlamaAttention, layer.self_attn)
        part = slice(begin, end)
        x = x + _attend(attention_block, normed, queries, (cosines, sines), turn, mask, part, kept)
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    states: Tensor = network.model.norm(x)
    return states


def _rows(places: Tensor, attention: Tensor | None) -> Tensor:  # (B, R), (B, T) -> (B, R)
    """Returns the rows before; the first row of each sequence also stands for itself, see `Denoiser.forward`."""
    first = 0 if attention is None else attention.int().argmax(1, keepdim=True)  # (B, 1)
    return torch.where(places > first, places - 1, places)


def take(states: Tensor, rows: Tensor) -> Tensor:  # (B, Q, D), (B, R) -> (B, R, D)
    """Returns some rows of each sequence."""
    return states.gather(1, rows[:, :, None].expand(-1, -1, states.shape[-1]))


def _attend(
    block: LlamaAttention,  # or Qwen2's or Qwen3's, which have the same parts
    normed: Tensor,  # (B, Q, D)
    queries: Tensor | None,  # (B, R, D): the rows that ask, where not all do
    turn: tuple[Tensor, Tensor],  # of the keys
    turn_queries: tuple[Tensor, Tensor],
    mask: Tensor | None,  # (B, 1, 1, T) bool
    part: slice,
    kept: KeyValues | None,
) -> Tensor:  # (B, R or Q, D)
    def heads(project: torch.nn.Module, rows: Tensor, norm: torch.nn.Module | None) -> Tensor:  # (B, H, rows, W)
        found: Tensor = project(rows).unflatten(-1, (-1, block.head_dim))
        return (found if norm is None else norm(found)).transpose(1, 2)

    def rotate(found: Tensor, by: tuple[Tensor, Tensor]) -> Tensor:
        turned: Tensor = found * by[0][:, None] + rotate_half(found) * by[1][:, None]
        return turned

    asking = normed if queries is None else queries
    query = rotate(heads(block.q_proj, asking, getattr(block, "q_norm", None)), turn_queries)
    keys = rotate(heads(block.k_proj, normed, getattr(block, "k_norm", None)), turn)
    values = heads(block.v_proj, normed, None)
    if kept is not None:
        # Where keys are rotated in float32, attention rounds them to the values' precision; it is kept in that already.
        keys, values = kept.update(block.layer_idx, keys.to(values.dtype), values, part)
    attend = ALL_ATTENTION_FUNCTIONS[str(block.config._attn_implementation)]
    mask = None if mask is None else mask.expand(-1, -1, query.shape[2], -1)
    found, _ = attend(block, query, keys, values, mask, dropout=0.0, scaling=block.scaling, is_causal=False)
    out: Tensor = block.o_proj(found.flatten(2))
    return out
