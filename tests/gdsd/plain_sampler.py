"""A plain sampler that can be read at a glance: one sequence, no padding, all logits, one position at a time."""

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import pytest
import torch
from torch import Tensor

from tasks.gdsd import seeds
from tasks.gdsd.config.sampler import SamplerConfig
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.rollout.engines.base import Completion, Request

Read: TypeAlias = Callable[[Tensor, int, int], Tensor]


@torch.no_grad()
def plain_sampler(
    denoiser: Denoiser, request: Request, config: SamplerConfig, read: Read | None = None, sure: float = math.inf
) -> Completion:
    """Unmasks a completion by the book.

    In each step every hidden position of the block takes the token at which the running sum of probabilities first
    exceeds the uniform number of (key, step, position). Those stay whose token is the most probable, or whose
    distribution has the least entropy. `config` has an order and a top_p.

    Args:
        read: how the canvas (1, T) is read in a block's first, second, ... call, from the block's place in it, as
            (1, T, D); by default as a whole.
        sure: probability from which a token stays whatever the step's share; a block ends when nothing is hidden.
    """
    read = read or (lambda ids, call, block: denoiser(ids))
    vocabulary = denoiser.tokenizer.get_vocab()
    banned = [*denoiser.never_sampled, *(vocabulary[token] for token in config.ban)]
    completion = [denoiser.mask_id] * config.length
    unmasked_at = [config.steps - 1] * config.length
    uncertainty = [0.0] * config.length
    step = calls = 0
    for first in range(0, config.length, config.block_length):
        calls_before = calls
        for turn in range(config.steps_per_block):
            hidden = completion[first : first + config.block_length].count(denoiser.mask_id)
            share = share_of_step(config, turn, hidden)
            if share and hidden:
                canvas = torch.tensor([request.prompt_ids + completion])
                states = read(canvas, calls - calls_before, len(request.prompt_ids) + first)[0]
                logits = (states @ denoiser.network.lm_head.weight.T)[len(request.prompt_ids) :]  # (L, V)
                logits[:, banned] = -math.inf
                candidates = []
                for position in range(first, first + config.block_length):
                    if completion[position] != denoiser.mask_id:
                        continue
                    uniform = seeds.uniform(torch.tensor(request.key), step * config.length + position).item()
                    token, rank = choose_plainly(logits[position], uniform, config)
                    candidates.append((-rank, position, token))
                for turn_of_it, (rank, position, token) in enumerate(sorted(candidates)):
                    if turn_of_it < share or -rank >= sure:
                        completion[position], unmasked_at[position] = token, step
                        uncertainty[position] = -math.log(-rank) if config.order == "confidence" else rank
                calls += 1
            step += 1
        end = first + config.block_length
        if config.stop_at_end and not set(completion[:end]).isdisjoint(denoiser.end_ids):
            ends = [token for token in denoiser.end_ids if token not in banned]
            completion[end:] = ends[:1] * (config.length - end)
            break
    return Completion(completion, unmasked_at, uncertainty, calls)


def alike(made: Sequence[Completion], expected: Sequence[Completion]) -> bool:
    """Whether completions are equal, their uncertainties but for rounding."""
    found, known = ([number for one in some for number in one.uncertainty] for some in (made, expected))
    return made == expected and found == pytest.approx(known, abs=1e-4)


def choose_plainly(logits: Tensor, uniform: float, config: SamplerConfig) -> tuple[int, float]:
    """Draws a token from one row of logits, and returns it with its rank."""
    probabilities = (logits.double() / (config.temperature or 1.0)).softmax(0).tolist()
    likeliest = sorted(range(len(logits)), key=lambda token: -probabilities[token])
    kept: list[int] = []
    for token in likeliest:
        reached = sum(probabilities[other] for other in kept)
        if kept and (len(kept) == config.top_k or reached >= (config.top_p or 1.0)):
            break
        kept.append(token)
    if config.temperature == 0 and config.order == "confidence":
        kept = likeliest
    total = sum(probabilities[token] for token in kept)
    drawn = {token: probabilities[token] / total if token in kept else 0.0 for token in range(len(logits))}
    if config.temperature == 0:
        chosen = int(logits.argmax())
    else:
        running, chosen = 0.0, -1
        for token, probability in drawn.items():
            running, chosen = running + probability, token
            if running > uniform:
                break
    if config.order == "confidence":
        return chosen, float(logits.double().softmax(0)[chosen])
    return chosen, sum(probability * math.log(probability) for probability in drawn.values() if probability > 0)


def share_of_step(config: SamplerConfig, turn: int, hidden: int) -> int:
    """Returns how many tokens of a block a step unmasks."""
    if config.order == "confidence":
        steps = config.steps_per_block
        return config.block_length // steps + (turn < config.block_length % steps)
    if turn == config.steps_per_block - 1:
        return hidden
    times = torch.linspace(1, 1e-3, config.steps_per_block + 1, dtype=torch.float64).tolist()
    return int(hidden * (1 - times[turn + 1] / times[turn]))
