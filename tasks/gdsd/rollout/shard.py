"""Rollouts of a round: which prompts, which completions, which random numbers."""

import time
from collections.abc import Mapping, Sequence

import pyarrow as pa

from tasks.gdsd import seeds
from tasks.gdsd.config.sampler import RolloutEngine, SamplerConfig
from tasks.gdsd.denoiser import devices
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.prompts import problems as prompts
from tasks.gdsd.records import RolloutStats
from tasks.gdsd.rollout import engines
from tasks.gdsd.rollout.engines.base import Request


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
    problems = train.take(chosen).to_pylist()
    asked = [
        (problem, sample, seeds.key(seed, "rollout", round_index, problem["id"], sample))
        for problem in problems
        for sample in range(group_size)
    ]
    return complete(denoiser, asked, settings, choice, batch_size, f"rollouts of round {round_index + 1}")


def complete(
    denoiser: Denoiser,
    asked: Sequence[tuple[Mapping[str, str], int, int]],
    settings: SamplerConfig,
    choice: RolloutEngine,
    batch_size: int,
    title: str,
) -> tuple[list[dict[str, object]], RolloutStats]:
    """Makes completions as rows of `tables.ROLLOUTS`.

    Args:
        asked: a row of `tables.PROMPTS`, the number of the sample and the key of its random numbers, for each.
        title: what the progress bar says.
    """
    began = time.monotonic()
    requests = [Request(denoiser.encode(problem["prompt"]), key) for problem, _, key in asked]
    engine = engines.make(choice.root, denoiser)
    completions = engine.complete(requests, settings, batch_size, title)
    rows: list[dict[str, object]] = [
        {
            "prompt_id": problem["id"],
            "sample": sample,
            "problem": problem["problem"],
            "reference": problem["reference"],
            "prompt_ids": request.prompt_ids,
            "completion_ids": completion.ids,
            "unmasked_at": completion.unmasked_at,
            "uncertainty": completion.uncertainty,
            "completion": denoiser.decode(completion.ids),
            "ended": denoiser.ended(completion.ids),
            "engine": choice.root.name,
        }
        for (problem, sample, _), request, completion in zip(asked, requests, completions, strict=True)
    ]
    seconds = time.monotonic() - began
    return rows, RolloutStats(
        completions=len(rows),
        tokens=len(rows) * settings.length,
        positions=engine.work.positions,
        seconds=seconds,
        device=devices.name(denoiser.device),
        ended_unix_seconds=time.time(),
    )
