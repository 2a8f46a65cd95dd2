"""Stage `rollout`: completions of a round's prompts, one map-task item per shard."""

import os
from pathlib import Path

from flytekit.types.file import FlyteFile
from pydantic import BaseModel

from tasks.flyte.local import new_folder
from tasks.flyte.stage import gpu_task
from tasks.flyte.types import Checkpoint, Table
from tasks.gdsd.config.sampler import RolloutEngine, SamplerConfig
from tasks.gdsd.records import RolloutStats


class RolloutShard(BaseModel):
    """A shard's completions (schema `tables.ROLLOUTS`) and what they cost."""

    table: FlyteFile
    stats: RolloutStats


@gpu_task(hours=6)
def generate_rollouts(
    shard: int,
    shards: int,
    policy: Checkpoint,
    train: Table,
    sampler: SamplerConfig,
    engine: RolloutEngine,
    prompts_per_round: int,
    group_size: int,
    batch_size: int,
    round: int,
    seed: int,
) -> RolloutShard:
    """Generates one shard of a round's rollouts; together the shards are the same, however many there are."""
    from tasks.gdsd import tables
    from tasks.gdsd.denoiser import checkpoint, devices
    from tasks.gdsd.rollout import shard as rollouts

    denoiser = checkpoint.load(Path(os.fspath(policy)), devices.device(), moments=False).denoiser
    denoiser.freeze_for_sampling()
    rows, stats = rollouts.generate_shard(
        denoiser,
        tables.read(Path(os.fspath(train)), tables.PROMPTS),
        sampler,
        engine,
        prompts_per_round=prompts_per_round,
        group_size=group_size,
        batch_size=batch_size,
        round_index=round,
        seed=seed,
        shard=shard,
        shards=shards,
    )
    file = tables.write(rows, tables.ROLLOUTS, new_folder("rollouts") / "rollouts.parquet")
    return RolloutShard(table=FlyteFile(str(file)), stats=stats)
