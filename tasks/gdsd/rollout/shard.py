"""Rollouts of a round: which prompts, which completions, which random numbers."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import pyarrow as pa

from tasks.gdsd import seeds
from tasks.gdsd.config.sampler import RolloutEngine, SamplerConfig
from tasks.gdsd.denoiser import devices
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.prompts import problems as prompts
from tasks.gdsd.records import RolloutStats
from tasks.gdsd.rollout import engines
from tasks.gdsd.rollout.engines.base import Request

Asked: TypeAlias = tuple[Mapping[str, str], int, int]  # a row of `tables.PROMPTS`, sample, key of its random numbers


@dataclass(frozen=True)
class Rollout:
    """A completion of a prompt: a row of `tables.ROLLOUTS`, with the same names."""

    prompt_id: str
    sample: int  # its number among those of the prompt
    problem: str
    reference: str
    prompt_ids: list[int]  # S tokens, in the template of the policy's family
    completion_ids: list[int]  # L tokens
    unmasked_at: list[int]  # the sampler's step that unmasked each token
    uncertainty: list[float]  # of the policy then, in nats; see `Completion`
    completion: str  # the text up to the first end token
    ended: bool  # whether the policy wrote an end token
    engine: str  # which made it


def generate_shard(
    denoiser: Denoiser,
    train: pa.Table,
    settings: SamplerConfig,
    choice: RolloutEngine,
    *,
    prompts_per_round: int,
    group_size: int,
    batch_size: int,
    round_index: int,
    seed: int,
    shard: int,
    shards: int,
) -> tuple[list[dict[str, object]], RolloutStats]:
    """Generates one shard of a round's rollouts as rows of `tables.ROLLOUTS`.

    The prompts of a round go to its shards in turn. A completion's random numbers are addressed by (seed, round,
    prompt, sample), so the shard that makes it changes nothing.
    """
    chosen = prompts.round_rows(train.num_rows, prompts_per_round, round_index, seed)[shard::shards]
    asked = ask(train.take(chosen).to_pylist(), group_size, round_index, seed)
    made, stats = complete(denoiser, asked, settings, choice, batch_size, f"rollouts of round {round_index + 1}")
    return [vars(rollout) for rollout in made], stats


def ask(problems: Sequence[Mapping[str, str]], group_size: int, round_index: int, seed: int) -> list[Asked]:
    """Returns what is asked in a round: each problem, a row of `tables.PROMPTS`, `group_size` times."""
    return [
        (problem, sample, seeds.key(seed, "rollout", round_index, problem["id"], sample))
        for problem in problems
        for sample in range(group_size)
    ]


def complete(
    denoiser: Denoiser,
    asked: Sequence[Asked],
    settings: SamplerConfig,
    choice: RolloutEngine,
    batch_size: int,
    title: str,
) -> tuple[list[Rollout], RolloutStats]:
    """Makes completions, in the order of what is asked.

    Args:
        title: what the progress bar says.
    """
    began = time.monotonic()
    requests = [Request(denoiser.encode(problem["prompt"]), key) for problem, _, key in asked]
    engine = engines.make(choice.root, denoiser)
    completions = engine.complete(requests, settings, batch_size, title)
    made = [
        Rollout(
            prompt_id=problem["id"],
            sample=sample,
            problem=problem["problem"],
            reference=problem["reference"],
            prompt_ids=request.prompt_ids,
            completion_ids=completion.ids,
            unmasked_at=completion.unmasked_at,
            uncertainty=completion.uncertainty,
            completion=denoiser.decode(completion.ids),
            ended=denoiser.ended(completion.ids),
            engine=choice.root.name,
        )
        for (problem, sample, _), request, completion in zip(asked, requests, completions, strict=True)
    ]
    seconds = time.monotonic() - began
    return made, RolloutStats(
        completions=len(made),
        tokens=len(made) * settings.length,
        positions=engine.work.positions,
        seconds=seconds,
        device=devices.name(denoiser.device),
        ended_unix_seconds=time.time(),
    )
