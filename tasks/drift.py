"""Stage `drift`: compares an approximate engine with the exact one, and gives it up where it differs too much."""

import os
from pathlib import Path
from typing import NamedTuple

from flytekit.types.file import FlyteFile
from pydantic import BaseModel

from tasks.flyte.local import new_folder
from tasks.flyte.stage import cpu_task, gpu_task
from tasks.flyte.types import Checkpoint, Table
from tasks.gdsd.config.sampler import DriftConfig, RolloutEngine, SamplerConfig
from tasks.gdsd.domains import DomainChoice
from tasks.gdsd.records import DriftStats, RolloutStats


class BothSamples(BaseModel):
    """Completions of both engines (schema `tables.ROLLOUTS`), what each engine's cost, and the policy's end tokens."""

    table: FlyteFile
    stats: list[RolloutStats]
    end_ids: list[int]


class MeasuredDrift(NamedTuple):
    stats: DriftStats
    engine: RolloutEngine


@gpu_task(hours=2)
def sample_both(
    policy: Checkpoint,
    train: Table,
    sampler: SamplerConfig,
    engine: RolloutEngine,
    size: int,
    batch_size: int,
    seed: int,
) -> BothSamples:
    """Completes the run's sample of training problems by an engine and by the exact one; not where it is the same."""
    from tasks.gdsd import tables
    from tasks.gdsd.denoiser import checkpoint, devices
    from tasks.gdsd.evaluate import drift

    rows: list[dict[str, object]] = []
    stats: list[RolloutStats] = []
    end_ids: list[int] = []
    if engine.drift is not None:
        denoiser = checkpoint.load(Path(os.fspath(policy)), devices.device(), moments=False).denoiser
        denoiser.freeze_for_sampling()
        end_ids = list(denoiser.end_ids)
        problems = tables.read(Path(os.fspath(train)), tables.PROMPTS)
        rows, stats = drift.sample(denoiser, problems, sampler, engine, size=size, batch_size=batch_size, seed=seed)
    file = tables.write(rows, tables.ROLLOUTS, new_folder("drift") / "drift.parquet")
    return BothSamples(table=FlyteFile(str(file)), stats=stats, end_ids=end_ids)


@cpu_task(hours=2, retries=3, ignored=("domain",))
def measure_drift(
    samples: BothSamples,
    engine: RolloutEngine,
    limits: DriftConfig,
    domain: DomainChoice,
    rule: DomainChoice,
    round: int,
) -> MeasuredDrift:
    """Measures the drift, and returns the engine to use from here on: the same, or the exact one for good.

    Args:
        rule: of the domain, by which the cache knows verdicts.
    """
    from tasks.gdsd import tables
    from tasks.gdsd.evaluate import drift

    if engine.drift is None:
        return MeasuredDrift(drift.unmeasured(round), engine)
    made = tables.read(Path(os.fspath(samples.table)), tables.ROLLOUTS)
    stats, following = drift.measure(made, samples.stats, samples.end_ids, engine, limits, domain, round)
    return MeasuredDrift(stats, following)
