"""Whether prompts leave room for their completions in what a model was made for."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.errors import DataError


@dataclass(frozen=True)
class PromptLengths:
    """Prompts in tokens, as the policy's template phrases them."""

    longest: int
    mean: float


def measure(denoiser: Denoiser, problems: pa.Table, length: int) -> PromptLengths:
    """Measures the prompts of a table in tokens (schema `tables.PROMPTS`); needs no weights.

    Args:
        length: tokens of a completion.

    Raises:
        DataError: a prompt and its completion do not fit the model's positions, where it would go on without a sign
            that it reads what it was not trained for; or a prompt cannot be tokenised.
    """
    names: Sequence[str] = problems["id"].to_pylist()
    counts = [len(denoiser.encode(prompt)) for prompt in problems["prompt"].to_pylist()]
    longest = max(counts, default=0)
    if longest + length > denoiser.positions:
        over = sum(count + length > denoiser.positions for count in counts)
        raise DataError(
            f"{over} of {len(counts)} prompts are too long: the longest, {names[counts.index(longest)]!r}, has "
            f"{longest} tokens, and with completions of {length} (sampler.length) that is {longest + length}, but the "
            f"model was made for {denoiser.positions} (max_position_embeddings). Leave out long problems, lower "
            "prompts.domain.shots or sampler.length, or take a model with more positions."
        )
    return PromptLengths(longest, sum(counts) / max(len(counts), 1))
