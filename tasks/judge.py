"""Stage `gate`: whether the trained policy is promoted."""

import logging
import os
from datetime import timedelta
from pathlib import Path

from flytekit import task

from images import CPU
from tasks.gdsd.config import JudgeConfig
from tasks.gdsd.records import Decision
from tasks.types import Table

logger = logging.getLogger(__name__)


@task(
    container_image=CPU.image,
    requests=CPU.requests,
    limits=CPU.limits,
    cache=False,
    retries=2,
    timeout=timedelta(minutes=30),
    interruptible=True,
)
def judge(base: Table, trained: Table, config: JudgeConfig) -> Decision:
    """Compares the answers of base and trained policy, paired by problem, and decides on promotion."""
    from tasks.gdsd import evaluation, tables

    decision = evaluation.compare(
        tables.read(Path(os.fspath(base)), tables.SAMPLES),
        tables.read(Path(os.fspath(trained)), tables.SAMPLES),
        config,
    )
    logger.info("%s: %s", "promoted" if decision.promoted else "not promoted", decision.reason)
    return decision
