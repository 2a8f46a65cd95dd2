"""What the verified answers of a policy say of it, with an interval for every number. It needs no torch."""

import hashlib
import json
import statistics
import time
from collections.abc import Sequence

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
    """Sums up the judged answers of an evaluation; what could not be judged is left out.

    Raises:
        DataError: no answer could be judged.
    """
    problems = by_problem(samples)
    if not problems:
        raise DataError(f"none of the {samples.num_rows} answers could be judged, so there is nothing to report")
    solved = [statistics.fmean(own) for own, _ in problems.values()]
    gained = [statistics.fmean(own) for _, own in problems.values()]
    judged = sum(len(own) for own, _ in problems.values())
    chances = {k: list(chance_of_pass(problems, k).values()) for k in config.pass_at}
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
        solved=share(solved, judged, 0.95),
        pass_at=[PassAt(k=k, share=share(own, len(own), 0.95)) for k, own in chances.items() if own],
        reward=normal(gained, 0.95),
        parts=rewards.part_means(samples),
        judged=judged / samples.num_rows,
        empty=statistics.fmean(rewards.empty(samples)),
        truncated=statistics.fmean(rewards.truncated(samples, choice)),
        warnings=warnings,
        tokens=sum(shard.tokens for shard in shards),
        seconds=sum(shard.seconds for shard in shards) + seconds,
        scoring_seconds=seconds,
        ended_unix_seconds=time.time(),
        device=", ".join(sorted({shard.device for shard in shards if shard.device})) or None,
    )


def by_problem(samples: pa.Table) -> dict[str, tuple[list[float], list[float]]]:
    """Returns (solved, rewards) of the judged answers to each problem that has any, in the table's order."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    columns = (samples[name].to_pylist() for name in ("prompt_id", "solved", "reward"))
    for problem, solved, reward in zip(*columns, strict=True):
        if solved is not None and reward is not None:
            own = found.setdefault(problem, ([], []))
            own[0].append(float(solved))
            own[1].append(reward)
    return found


def chance_of_pass(problems: dict[str, tuple[list[float], list[float]]], k: int) -> dict[str, float]:
    """Returns the estimated chance that one of k answers is right, for each problem with k judged answers."""
    counts = {problem: (len(own), round(sum(own))) for problem, (own, _) in problems.items()}
    return {problem: pass_at(answers, right, k) for problem, (answers, right) in counts.items() if answers >= k}


def fingerprint(problems: pa.Table) -> str:
    """Returns a SHA-256 over a prompt table's rows, whatever the file that held them."""
    total = hashlib.sha256()
    for row in problems.select(["id", "prompt", "problem", "reference"]).to_pylist():
        total.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return total.hexdigest()
