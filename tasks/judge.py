"""Stage `gate`: whether the trained policy is promoted."""

import logging
import os
from datetime import timedelta
from pathlib import Path

from flytekit import task

from images import CPU
from tasks.gdsd.config.train import JudgeConfig
from tasks.gdsd.records import Decision, EvalReport, GuardReport
from tasks.retry import retried
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
@retried
def judge(
    base: EvalReport,
    base_samples: Table,
    trained: EvalReport,
    trained_samples: Table,
    guards: list[GuardReport],
    config: JudgeConfig,
) -> Decision:
    """Compares the answers of base and trained policy, paired by problem, and decides on promotion.

    Raises:
        DataError: the policies were evaluated under different protocols, or on different problems.
    """
    from tasks.gdsd import tables
    from tasks.gdsd.evaluate import gate

    gate.require_one_protocol(base, trained)
    decision = gate.decide(
        tables.read(Path(os.fspath(base_samples)), tables.SAMPLES),
        tables.read(Path(os.fspath(trained_samples)), tables.SAMPLES),
        guards,
        config,
        base.protocol.pass_at,
    )
    logger.info("%s: %s", "promoted" if decision.promoted else "not promoted", decision.reason)
    return decision


@task(
    container_image=CPU.image,
    requests=CPU.requests,
    limits=CPU.limits,
    cache=False,
    retries=2,
    timeout=timedelta(minutes=30),
    interruptible=True,
)
@retried
def judge_guard(
    name: str, base: EvalReport, base_samples: Table, trained: EvalReport, trained_samples: Table, config: JudgeConfig
) -> GuardReport:
    """Compares base and trained policy on a guarded domain, paired by problem.

    Raises:
        DataError: the policies were evaluated under different protocols, or on different problems.
    """
    from tasks.gdsd import tables
    from tasks.gdsd.evaluate import gate

    difference, _ = gate.paired(
        tables.read(Path(os.fspath(base_samples)), tables.SAMPLES),
        tables.read(Path(os.fspath(trained_samples)), tables.SAMPLES),
        config,
    )
    found = gate.guard(name, base, trained, difference, config.guards[name].tolerance)
    logger.info("guard %s %s: %s points", name, "holds" if found.held else "fails", difference.points())
    return found
