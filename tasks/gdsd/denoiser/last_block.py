"""The last block of a network, which computes no more than the rows that are read.

What a row needs of the others are their keys and values. In the last block nothing else of theirs is looked at, so
queries, the map after attention and the MLP of rows that nobody reads are left out. That changes no result beyond
rounding. In the default experiment every tenth row is read, and the last block is a third of the network.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, cast

import torch
from torch import Tensor
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaDecoderLayer
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

from tasks.gdsd.denoiser.networks import Network

Turn: TypeAlias = tuple[Tensor, Tensor]  # cosines and `signed` sines, (1 or B, rows, W) each


@dataclass(frozen=True)
class Rows:
    """Rows of a canvas that are read, R in all."""

    begin: int  # all are from this row on
    which: Tensor  # (R,) int64: sequences
    at: Tensor  # (R,) int64: rows of them


def rows(
    read: Tensor,  # (B, L) bool: which of the last L tokens are to be predicted
    length: int,  # T: tokens of a canvas
    attention: Tensor | None,  # (B, T) bool, False on left padding; None where nothing is padded
    shifted: bool,  # whether the row before a token predicts it
) -> Rows:
    """Returns the rows that predict some tokens."""
    start = length - read.shape[1]
    at = torch.arange(start, length, device=read.device).expand_as(read)  # (B, L)
    which, _ = read.nonzero(as_tuple=True)
    if shifted:
        start, at = max(0, start - 1), rows_before(at, attention)
    return Rows(start, which, at[read])


def rows_before(
    places: Tensor,  # (B, R) int64
    attention: Tensor | None,  # (B, T) bool, False on left padding; None where nothing is padded
) -> Tensor:  # (B, R) int64
    """Returns the rows before; the first row of each sequence also stands for itself, see `Denoiser.forward`."""
    first = 0 if attention is None else attention.int().argmax(1, keepdim=True)  # (B, 1)
    return torch.where(places > first, places - 1, places)


def signed(sines: Tensor) -> Tensor:  # (..., W)
    """Negates the sines of a head's first half: there a rotation subtracts, and in the second it adds."""
    lower, upper = sines.chunk(2, -1)
    return torch.cat([-lower, upper], -1)


def attend(
    block: LlamaAttention,  # or Qwen2's or Qwen3's, which have the same parts
    normed: Tensor,  # (B, T, D)
    queries: Tensor,  # (B, Q, D): the rows that ask
    turn: Turn,  # of the keys
    turn_queries: Turn,
    mask: Tensor | None,  # (B, 1, 1 or Q, T) bool
    keep: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,  # makes all keys and values of the new ones
) -> Tensor:  # (B, Q, H * W): before the map after attention
    """Attends from some rows to all."""

    def heads(project: torch.nn.Module, rows: Tensor, norm: torch.nn.Module | None) -> Tensor:  # (B, H, rows, W)
        found: Tensor = project(rows).unflatten(-1, (-1, block.head_dim))
        return (found if norm is None else norm(found)).transpose(1, 2)

    def rotate(found: Tensor, by: Turn) -> Tensor:
        # The stock rotation to the last bit, in fewer passes: the halves change places and take the signs of the sines.
        return (found * by[0][:, None]).add_(found.roll(block.head_dim // 2, -1) * by[1][:, None])

    query = rotate(heads(block.q_proj, queries, getattr(block, "q_norm", None)), turn_queries)
    keys = rotate(heads(block.k_proj, normed, getattr(block, "k_norm", None)), turn)
    values = heads(block.v_proj, normed, None)
    if keep is not None:
        keys, values = keep(keys, values)
    attention = ALL_ATTENTION_FUNCTIONS[str(block.config._attn_implementation)]
    mask = None if mask is None else mask.expand(-1, -1, query.shape[2], -1)
    found, _ = attention(block, query, keys, values, mask, dropout=0.0, scaling=block.scaling, is_causal=False)
    flat: Tensor = found.flatten(2)
    return flat


class LastBlock(GradientCheckpointingLayer):
    """A stock block that can be asked for some rows: `network.model(..., rows=...)` gives the states of those alone.

    The library hands the argument to all blocks, and the others do not look at it.
    """

    def forward(
        self,
        hidden_states: Tensor,  # (B, T, D)
        attention_mask: Tensor | None = None,  # (B, 1, T, T) bool
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        rows: Rows | None = None,  # None: all
        **options: object,  # whatever this version of the library passes on
    ) -> Tensor:  # (R, D), or (B, T, D)
        if rows is None or position_embeddings is None:
            whole: Tensor = super().forward(
                hidden_states, attention_mask=attention_mask, position_embeddings=position_embeddings, **options
            )
            return whole
        block, begin = cast(LlamaDecoderLayer, self), rows.begin
        normed = block.input_layernorm(hidden_states)
        cosines, sines = position_embeddings[0], signed(position_embeddings[1])
        found = attend(
            block.self_attn,
            normed,
            normed[:, begin:],
            (cosines, sines),
            (cosines[:, begin:], sines[:, begin:]),
            None if attention_mask is None else attention_mask[:, :, begin:],
        )
        x = hidden_states[rows.which, rows.at] + block.self_attn.o_proj(found[rows.which, rows.at - begin])  # (R, D)
        out: Tensor = x + block.mlp(block.post_attention_layernorm(x))
        return out


_KINDS = {
    kind: type(f"Last{kind.__name__}", (LastBlock, kind), {})
    for kind in (LlamaDecoderLayer, Qwen2DecoderLayer, Qwen3DecoderLayer)
}


def prepare(network: Network) -> None:
    """Lets a network's last block be asked for some rows; nothing else changes."""
    block = network.model.layers[-1]
    block.__class__ = _KINDS.get(type(block), type(block))
