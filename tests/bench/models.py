"""Denoisers of any size with random weights, and a round to train them on."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from transformers import LlamaConfig, LlamaForCausalLM

from tasks.gdsd.config.train import DistillConfig
from tasks.gdsd.denoiser import checkpoint
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.denoiser.families.tiny import TINY
from tasks.gdsd.denoiser.tiny import character_tokenizer
from tasks.gdsd.distill import loop
from tasks.gdsd.planning.shapes import Shape


def build(shape: Shape) -> Denoiser:
    """Returns a Llama that reads in both directions, with transformers' own initial weights."""
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        use_cache=False,
    )
    config.is_causal = False
    return Denoiser(LlamaForCausalLM(config), character_tokenizer(), TINY).eval()


def round_of(tokens: Sequence[int], groups: int, group: int, prompt: int, length: int) -> pa.Table:
    """A rewarded round of made-up completions, all of which carry a signal."""
    rows = [
        {
            "prompt_id": f"p{number}",
            "sample": sample,
            "prompt_ids": [tokens[0]] * prompt,
            "completion_ids": [tokens[(number + sample + place) % len(tokens)] for place in range(length)],
            "unmasked_at": [place // 4 for place in range(length)],
            "uncertainty": [1.0] * length,
            "advantage": float(sample) - (group - 1) / 2,
        }
        for number in range(groups)
        for sample in range(group)
    ]
    return pa.Table.from_pylist(rows)


def train(
    denoiser: Denoiser, rewarded: pa.Table, config: DistillConfig, group: int, base: Denoiser | None = None
) -> None:
    """One epoch from the base: there are no moments yet that a checkpoint could have brought."""
    loop.distill(
        checkpoint.base_state(denoiser),
        None if base is None else checkpoint.base_state(base),
        rewarded,
        config,
        round_index=0,
        group_size=group,
        seed=0,
        parent="00",
        evidence=Path(tempfile.gettempdir()),
    )
