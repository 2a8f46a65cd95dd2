"""Stage `gate`: whether the trained policy is promoted."""

import logging
import os
from pathlib import Path

from tasks.flyte.stage import cpu_task
from tasks.flyte.types import Table
from tasks.gdsd.config.evaluate import GateConfig
from tasks.gdsd.records import Decision, EvalReport, GuardReport

logger = logging.getLogger(__name__)


@cpu_task(hours=0.5, cached=False)
def gate(
    base: EvalReport,
    base_samples: Table,
    trained: EvalReport,
    trained_samples: Table,
    guards: list[GuardReport],
    config: GateConfig,
) -> Decision:
    """Compares the answers of base and trained policy, paired by problem, and decides on promotion.

    Raises:
        DataError: the policies were evaluated under different protocols, or on different problems.
    """
    from tasks.gdsd import tables
    from tasks.gdsd.evaluate.gate import decide, require_one_protocol

    require_one_protocol(base, trained)
    decision = decide(
        tables.read(Path(os.fspath(base_samples)), tables.SAMPLES),
        tables.read(Path(os.fspath(trained_samples)), tables.SAMPLES),
        guards,
        config,
        base.protocol.pass_at,
    )
    logger.info("%s", decision.verdict())
    return decision


@cpu_task(hours=0.5, cached=False)
def gate_guard(
    name: str, base: EvalReport, base_samples: Table, trained: EvalReport, trained_samples: Table, config: GateConfig
) -> GuardReport:
    """Compares base and trained policy on a guarded domain, paired by problem.

    Raises:
        DataError: the policies were evaluated under different protocols, or on different problems.
    """
    from tasks.gdsd import tables
    from tasks.gdsd.evaluate.gate import guard, paired

    difference, _ = paired(
        tables.read(Path(os.fspath(base_samples)), tables.SAMPLES),
        tables.read(Path(os.fspath(trained_samples)), tables.SAMPLES),
        config,
    )
    found = guard(name, base, trained, difference, config.guards[name].tolerance)
    logger.info("guard %s %s: %s points", name, "holds" if found.held else "fails", difference.points())
    return found
