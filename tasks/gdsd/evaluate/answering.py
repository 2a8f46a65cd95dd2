"""A policy's answers to problems, under the one protocol of evaluations."""

import time

import pyarrow as pa

from tasks.gdsd import seeds, tables
from tasks.gdsd.config.evaluate import EvaluationConfig
from tasks.gdsd.denoiser import devices
from tasks.gdsd.denoiser.checkpoint import PolicyState
from tasks.gdsd.records import AnswerStats
from tasks.gdsd.rollout import engines
from tasks.gdsd.rollout.engines.base import Request


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
    completions = engine.complete(requests, config.sampler, config.batch_size, "evaluating")
    answers: list[dict[str, object]] = [
        {
            "prompt_id": row["id"],
            "sample": sample,
            "prompt": row["prompt"],
            "problem": row["problem"],
            "reference": row["reference"],
            "prompt_ids": request.prompt_ids,
            "completion": denoiser.decode(completion.ids),
            "ended": denoiser.ended(completion.ids),
            "steps": completion.steps,
            "completion_ids": completion.ids,
            "tokens": denoiser.pieces(completion.ids),
            "unmasked_at": completion.unmasked_at,
        }
        for (row, sample), request, completion in zip(asked, requests, completions, strict=True)
    ]
    stats = AnswerStats(
        round=policy.record.round,
        problems=problems.num_rows,
        prompts_sha256=tables.fingerprint(problems),
        sampler=engine.resolve(config.sampler),
        tokens=len(answers) * config.sampler.length,
        seconds=time.monotonic() - began,
        ended_unix_seconds=time.time(),
        device=devices.name(denoiser.device),
    )
    return answers, stats
