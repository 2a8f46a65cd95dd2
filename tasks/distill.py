"""Stage `distill`: one epoch of an objective, GDSD by default, on a round's scored completions."""

import logging
import os
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from flytekit import Cache, task
from flytekit.types.directory import FlyteDirectory

from images import GPU
from tasks.gdsd.config import DistillConfig
from tasks.gdsd.errors import NonFiniteError
from tasks.gdsd.records import EpochStats
from tasks.local import keep, new_folder
from tasks.sources import SourceVersion
from tasks.types import Checkpoint, Table

logger = logging.getLogger(__name__)


class Distilled(NamedTuple):
    checkpoint: Checkpoint
    stats: EpochStats


@task(
    container_image=GPU.image,
    requests=GPU.requests,
    limits=GPU.limits,
    cache=Cache(policies=[SourceVersion()], serialize=True),
    retries=3,
    timeout=timedelta(hours=6),
    interruptible=True,
)
def distill_epoch(
    policy: Checkpoint, base: Checkpoint, scored: Table, config: DistillConfig, group_size: int, round: int, seed: int
) -> Distilled:
    """Trains the policy on a round's scored completions, for a few updates, in as many processes as configured.

    The processes are started on the machine that the task runs on, so that a local run has them as well, and their
    number is a matter of the run's configuration rather than of the registered task.

    Raises:
        NonFiniteError: several updates in a row were not finite; the evidence was saved.
        OutOfMemoryError: there is not enough memory for the smallest micro-batch.
    """
    from tasks.gdsd import checkpoint, tables
    from tasks.gdsd.epoch import Epoch, train

    folder, table = Path(os.fspath(policy)), Path(os.fspath(scored))
    trained, evidence = new_folder("policy") / "checkpoint", new_folder("evidence")
    needs_base = config.objective.needs_reference and not checkpoint.read_record(folder).adapter
    epoch = Epoch(
        policy=folder,
        base=Path(os.fspath(base)) if needs_base else None,
        scored=table,
        config=config,
        group_size=group_size,
        round_index=round,
        seed=seed,
        trained=trained,
        evidence=evidence,
    )
    try:
        stats = train(epoch)
    except NonFiniteError as error:
        raise NonFiniteError(f"{error} Weights and batch are in {keep(evidence)}.") from error
    evidence.rmdir()
    verdicts = tables.read(table, tables.SCORED)["reward"]
    rewards = verdicts.drop_null().to_numpy()
    logger.info(
        "round %d: reward %.3f, %d of %d completions with a signal, %d updates (%.1f s)",
        stats.round,
        rewards.mean() if len(rewards) else 0.0,
        stats.sequences,
        len(verdicts),
        sum(not step.skipped for step in stats.steps),
        stats.seconds,
    )
    return Distilled(FlyteDirectory(str(trained)), stats)
