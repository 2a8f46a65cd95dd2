"""Evaluation: answers under one protocol for every policy, and an interval for every number."""

import hashlib
import json
import statistics
import time
from collections.abc import Sequence

import pyarrow as pa
from tqdm import tqdm

from tasks.gdsd import devices, engines, rewards, seeds
from tasks.gdsd.checkpoint import PolicyState
from tasks.gdsd.config import EvaluationConfig
from tasks.gdsd.domains import DomainChoice
from tasks.gdsd.engines.base import Completion, Request
from tasks.gdsd.errors import DataError
from tasks.gdsd.intervals import normal, pass_at, share
from tasks.gdsd.records import AnswerStats, EvalReport, PassAt, Protocol


def answer(
    policy: PolicyState, problems: pa.Table, config: EvaluationConfig, seed: int, shard: int, shards: int
) -> tuple[list[dict[str, object]], AnswerStats]:
    """Answers one shard of the problems, each `config.samples` times; returns rows of `tables.ANSWERS`.

    An answer's random numbers are addressed by (seed, problem, sample), so the shard that makes it changes nothing.
    """
    began = time.monotonic()
    denoiser = policy.denoiser
    rows = problems.take(pa.array(range(shard, problems.num_rows, shards), pa.int64())).to_pylist()
    asked = [(row, sample) for row in rows for sample in range(config.samples)]
    requests = [
        Request(denoiser.encode(row["prompt"]), seeds.key(seed, "evaluate", row["id"], sample)) for row, sample in asked
    ]
    engine = engines.make(config.engine, denoiser)
    completions: dict[int, Completion] = {}
    with tqdm(total=len(requests), desc="evaluating", unit="seq", disable=None, leave=False) as bar:
        for batch in engine.generate(requests, config.sampler, config.batch_size) if requests else ():
            completions.update(batch)
            bar.update(len(batch))
    answers: list[dict[str, object]] = [
        {
            "prompt_id": row["id"],
            "sample": sample,
            "prompt": row["prompt"],
            "problem": row["problem"],
            "reference": row["reference"],
            "completion": denoiser.decode(completions[index].ids),
            "ended": denoiser.ended(completions[index].ids),
            "steps": completions[index].steps,
            "tokens": denoiser.pieces(completions[index].ids),
            "unmasked_at": completions[index].unmasked_at,
        }
        for index, (row, sample) in enumerate(asked)
    ]
    stats = AnswerStats(
        round=policy.record.round,
        problems=problems.num_rows,
        prompts_sha256=fingerprint(problems),
        sampler=engine.resolve(config.sampler),
        tokens=len(answers) * config.sampler.length,
        seconds=time.monotonic() - began,
        device=devices.name(denoiser.device),
    )
    return answers, stats


def merge(shards: list[pa.Table]) -> pa.Table:
    """Joins the shards of an evaluation in one order, whatever their number."""
    return pa.concat_tables(shards).sort_by([("prompt_id", "ascending"), ("sample", "ascending")]).combine_chunks()


def report(
    samples: pa.Table,  # as `rewards.judge` returns it
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
        truncated=statistics.fmean(rewards.truncated(samples)),
        warnings=warnings,
        tokens=sum(shard.tokens for shard in shards),
        seconds=sum(shard.seconds for shard in shards) + seconds,
        scoring_seconds=seconds,
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
