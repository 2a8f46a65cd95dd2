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
    """Trains the policy on a round's scored completions, for a few updates.

    Raises:
        NonFiniteError: several updates in a row were not finite; the evidence was saved.
    """
    from tasks.gdsd import checkpoint, devices, distiller, tables
    from tasks.gdsd.digests import digest

    device = devices.device()
    folder, evidence = Path(os.fspath(policy)), new_folder("evidence")
    table = tables.read(Path(os.fspath(scored)), tables.SCORED)
    state = checkpoint.load(folder, device)
    needs_base = config.objective.needs_reference and not state.denoiser.has_adapter
    try:
        trained, stats = distiller.distill(
            state,
            checkpoint.load(Path(os.fspath(base)), device) if needs_base else None,
            table,
            config,
            round_index=round,
            group_size=group_size,
            seed=seed,
            parent=digest(folder),
            evidence=evidence,
        )
    except NonFiniteError as error:
        raise NonFiniteError(f"{error} Weights and batch are in {keep(evidence)}.") from error
    evidence.rmdir()
    saved = checkpoint.save(new_folder("policy") / "checkpoint", trained)
    rewards = table["reward"].drop_null().to_numpy()
    logger.info(
        "round %d: reward %.3f, %d of %d completions with a signal, %d updates (%.1f s)",
        stats.round,
        rewards.mean() if len(rewards) else 0.0,
        stats.sequences,
        table.num_rows,
        sum(not step.skipped for step in stats.steps),
        stats.seconds,
    )
    return Distilled(FlyteDirectory(str(saved)), stats)
