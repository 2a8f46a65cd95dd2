"""What the verified answers of a policy say of it, with an interval for every number. It needs no torch."""

import statistics
import time
from collections.abc import Sequence
from typing import Literal

import pyarrow as pa

from tasks.gdsd.config.evaluate import EvaluationConfig
from tasks.gdsd.domains import DomainChoice
from tasks.gdsd.errors import DataError
from tasks.gdsd.evaluate.intervals import normal, pass_at, share
from tasks.gdsd.records import AnswerStats, EvalReport, PassAt, Protocol
from tasks.gdsd.reward import rewards


def report(
    samples: pa.Table,  # as `rewards.verify` returns it
    choice: DomainChoice,
    config: EvaluationConfig,
    seed: int,
    shards: Sequence[AnswerStats],
    warnings: list[str],
    seconds: float,
) -> EvalReport:
    """Sums up the answers of an evaluation.

    The solved share is over the answers of which is known whether they are right, the reward over those that have one.

    Raises:
        DataError: no answer has a reward, or of none is known whether it is right.
    """
    solved, gained = by_problem(samples, "solved"), by_problem(samples, "reward")
    if not gained:
        raise DataError(
            f"none of the {samples.num_rows} answers could be judged, so there is nothing to report: "
            f"{rewards.unrewarded(samples, choice)}"
        )
    if not solved:
        raise DataError(
            f"none of the {samples.num_rows} answers could be judged, so there is nothing to report: `solved` is None "
            "in all of them; give True or False wherever it is known whether an answer is right"
        )
    known, judged = (sum(map(len, problems.values())) for problems in (solved, gained))
    chances = {k: list(chance_of_pass(solved, k).values()) for k in config.pass_at}
    return EvalReport(
        round=shards[0].round,
        protocol=Protocol(
            domain=choice,
            sampler=shards[0].sampler,
            engine=config.engine,
            samples=config.samples,
            pass_at=config.pass_at,
            seed=seed,
            problems=shards[0].problems,
            prompts_sha256=shards[0].prompts_sha256,
        ),
        solved=share(_means(solved), known, 0.95),
        pass_at=[PassAt(k=k, share=share(own, len(own), 0.95)) for k, own in chances.items() if own],
        reward=normal(_means(gained), 0.95),
        parts=rewards.part_means(samples),
        judged=judged / samples.num_rows,
        known=known / samples.num_rows,
        empty=statistics.fmean(rewards.empty(samples)),
        truncated=statistics.fmean(rewards.truncated(samples, choice)),
        warnings=warnings,
        tokens=sum(shard.tokens for shard in shards),
        seconds=sum(shard.seconds for shard in shards) + seconds,
        scoring_seconds=seconds,
        ended_unix_seconds=time.time(),
        answered_unix_seconds=max(shard.ended_unix_seconds for shard in shards),
        device=", ".join(sorted({shard.device for shard in shards if shard.device})) or None,
    )


def by_problem(samples: pa.Table, column: Literal["solved", "reward"]) -> dict[str, list[float]]:
    """Returns what is known of the answers to each problem that has any such, in the table's order."""
    found: dict[str, list[float]] = {}
    for problem, value in zip(samples["prompt_id"].to_pylist(), samples[column].to_pylist(), strict=True):
        if value is not None:
            found.setdefault(problem, []).append(float(value))
    return found


def chance_of_pass(solved: dict[str, list[float]], k: int) -> dict[str, float]:
    """Returns the estimated chance that one of k answers is right, for each problem with k that are known."""
    return {problem: pass_at(len(own), round(sum(own)), k) for problem, own in solved.items() if len(own) >= k}


def _means(problems: dict[str, list[float]]) -> list[float]:
    return [statistics.fmean(own) for own in problems.values()]
