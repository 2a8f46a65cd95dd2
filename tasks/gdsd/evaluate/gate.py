"""The gate: whether a trained policy replaces its base, and on what evidence."""

import statistics
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyarrow as pa

from tasks.gdsd.config.evaluate import GateConfig
from tasks.gdsd.errors import DataError
from tasks.gdsd.evaluate.evaluation import by_problem, chance_of_pass
from tasks.gdsd.evaluate.intervals import bootstrap, difference
from tasks.gdsd.records import Decision, Estimate, EvalReport, GuardReport, PassAt


def paired(base: pa.Table, trained: pa.Table, config: GateConfig) -> tuple[Estimate, Estimate]:
    """Returns how much more of the problems the trained policy solves, and how much more reward it gets.

    Problems are resampled with replacement, both policies' answers to a problem together, so the difficulty of problems
    cancels. A problem counts for the solved share if of an answer of both is known whether it is right, and for the
    reward if an answer of both has one.

    Raises:
        DataError: the tables are not answers to the same problems, or no problem counts.
    """
    keys = ["prompt_id", "sample", "prompt", "problem", "reference"]
    if not base.select(keys).equals(trained.select(keys)):
        raise DataError("base and trained policy were not evaluated on the same problems, so they cannot be paired")
    return difference(_gains(base, trained, "solved"), config), bootstrap(_gains(base, trained, "reward"), config)


def _gains(
    base: pa.Table,
    trained: pa.Table,
    column: Literal["solved", "reward"],
) -> np.ndarray:  # (problems that both have a value for,)
    old, new = by_problem(base, column), by_problem(trained, column)
    gains = [statistics.fmean(new[problem]) - statistics.fmean(own) for problem, own in old.items() if problem in new]
    if not gains:
        raise DataError(
            f"no problem has a verdict for both policies in which `{column}` is not None, so they cannot be compared"
        )
    return np.asarray(gains)


def require_one_protocol(base: EvalReport, trained: EvalReport) -> None:
    """Refuses numbers that came about in different ways: another engine, sampler, seed or set of problems.

    Raises:
        DataError: the protocols differ.
    """
    old, new = (found.protocol.model_dump(mode="json") for found in (base, trained))
    if apart := [f"{name}: {old[name]} and {new[name]}" for name in old if old[name] != new[name]]:
        raise DataError(
            f"base and trained policy were evaluated under different protocols ({'; '.join(apart)}), so their numbers "
            "do not compare; evaluate both under one"
        )


def guard(name: str, base: EvalReport, trained: EvalReport, difference: Estimate, tolerance: float) -> GuardReport:
    """Decides on a guarded domain: it holds if the interval of the difference ends no further below 0 than tolerated.

    Raises:
        DataError: the reports are under different protocols.
    """
    require_one_protocol(base, trained)
    return GuardReport(
        name=name,
        base=base,
        trained=trained,
        difference=difference,
        tolerance=tolerance,
        held=difference.low >= -tolerance,
    )


def paired_pass_at(base: pa.Table, trained: pa.Table, k: int, config: GateConfig) -> PassAt | None:
    """Returns how much likelier one of the trained policy's k answers is right; None where no problem has k of both."""
    old, new = (chance_of_pass(by_problem(table, "solved"), k) for table in (base, trained))
    gains = np.asarray([new[problem] - old[problem] for problem in old if problem in new])
    return PassAt(k=k, share=difference(gains, config)) if len(gains) else None


def decide(
    base: pa.Table, trained: pa.Table, guards: list[GuardReport], config: GateConfig, pass_at: Sequence[int] = (1,)
) -> Decision:
    """Decides on promotion from the samples of two policies under one protocol.

    The trained policy is promoted when the lower end of the interval of its solved share's gain exceeds the margin, and
    every guard holds.

    Raises:
        DataError: the tables are not answers to the same problems.
    """
    solved, reward = paired(base, trained, config)
    clears = solved.low > config.margin
    verb = "clears" if clears else "does not clear"
    reason = (
        f"the {100 * config.confidence:g} % interval of the gain in solved problems, {100 * solved.low:+.1f} to "
        f"{100 * solved.high:+.1f} points, {verb} the margin of {100 * config.margin:.1f} points"
    )
    for found in guards:
        if not found.held:
            reason += (
                f"; on the guard {found.name} it may be worse by {-100 * found.difference.low:.1f} points, of which "
                f"{100 * found.tolerance:.1f} are tolerated"
            )
    return Decision(
        promoted=clears and all(found.held for found in guards),
        reason=reason,
        solved_difference=solved,
        reward_difference=reward,
        pass_at_differences=[gain for k in pass_at if (gain := paired_pass_at(base, trained, k, config)) is not None],
        confidence=config.confidence,
        guards=guards,
    )
