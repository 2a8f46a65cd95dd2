"""Evaluation: one protocol for every policy, an interval for every number, and a comparison paired by problem."""

import hashlib
import json
import math
import statistics
import time

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from tasks.gdsd import sampler, seeds
from tasks.gdsd.checkpoint import PolicyState
from tasks.gdsd.config import EvaluationConfig, JudgeConfig
from tasks.gdsd.domains import DOMAINS
from tasks.gdsd.errors import DataError
from tasks.gdsd.records import Decision, Estimate, EvalReport, Protocol


def evaluate(
    policy: PolicyState, problems: pa.Table, domain_name: str, config: EvaluationConfig, seed: int
) -> tuple[EvalReport, list[dict[str, object]]]:
    """Answers every problem once and returns the report and rows of `tables.SAMPLES`."""
    began = time.monotonic()
    domain, denoiser = DOMAINS[domain_name], policy.denoiser
    rows = problems.to_pylist()
    requests = [sampler.Request(denoiser.encode(row["prompt"]), seeds.key(seed, "evaluate", row["id"])) for row in rows]
    completions: list[sampler.Completion] = []
    with tqdm(total=len(rows), desc="evaluating", unit="seq", disable=None, leave=False) as bar:
        for batch in sampler.generate(denoiser, requests, config.sampler, config.batch_size):
            completions += batch
            bar.update(len(batch))
    samples: list[dict[str, object]] = []
    rewards, solved = [], []
    for row, completion in zip(rows, completions, strict=True):
        answer = denoiser.decode(completion.ids)
        verdict = domain.verify(row["problem"], row["reference"], answer)
        samples.append(
            {
                "prompt_id": row["id"],
                "sample": 0,
                "problem": row["problem"],
                "reference": row["reference"],
                "completion": answer,
                "reward": verdict.reward,
                "solved": verdict.solved,
            }
        )
        if verdict.reward is not None and verdict.solved is not None:
            rewards.append(verdict.reward)
            solved.append(verdict.solved)
    if not rewards:
        raise DataError(f"none of the {len(rows)} answers could be judged, so there is nothing to report")
    report = EvalReport(
        round=policy.record.round,
        protocol=Protocol(
            domain=domain_name,
            sampler=config.sampler,
            seed=seed,
            problems=len(rows),
            prompts_sha256=fingerprint(problems),
        ),
        solved=wilson(sum(solved), len(solved), 0.95),
        reward=normal(rewards, 0.95),
        tokens=len(rows) * config.sampler.length,
        seconds=time.monotonic() - began,
    )
    return report, samples


def fingerprint(problems: pa.Table) -> str:
    """Returns a SHA-256 over a prompt table's rows, whatever the file that held them."""
    total = hashlib.sha256()
    for row in problems.select(["id", "prompt", "problem", "reference"]).to_pylist():
        total.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return total.hexdigest()


def compare(base: pa.Table, trained: pa.Table, config: JudgeConfig) -> Decision:
    """Decides on promotion from the samples of two policies under one protocol.

    Problems are resampled with replacement, both policies' answers to a problem together, so the difficulty of problems
    cancels. The trained policy is promoted when the lower end of the interval of its solved share's gain exceeds the
    margin.

    Raises:
        DataError: the tables are not answers to the same problems.
    """
    keys = ["prompt_id", "sample", "problem", "reference"]
    if not base.select(keys).equals(trained.select(keys)):
        raise DataError("base and trained policy were not evaluated on the same problems, so they cannot be paired")
    both = [
        (old["solved"], new["solved"], old["reward"], new["reward"])
        for old, new in zip(base.to_pylist(), trained.to_pylist(), strict=True)
        if None not in (old["solved"], new["solved"], old["reward"], new["reward"])
    ]
    if not both:
        raise DataError("no problem has a verdict for both policies, so they cannot be compared")
    values = np.asarray(both, dtype=np.float64)  # (problems, 4)
    solved = bootstrap(values[:, 1] - values[:, 0], config)
    reward = bootstrap(values[:, 3] - values[:, 2], config)
    promoted = solved.low > config.margin
    verb = "clears" if promoted else "does not clear"
    reason = (
        f"the {100 * config.confidence:g} % interval of the gain in solved problems, {100 * solved.low:+.1f} to "
        f"{100 * solved.high:+.1f} points, {verb} the margin of {100 * config.margin:.1f} points"
    )
    return Decision(
        promoted=promoted,
        reason=reason,
        solved_difference=solved,
        reward_difference=reward,
        confidence=config.confidence,
    )


def bootstrap(differences: np.ndarray, config: JudgeConfig) -> Estimate:
    """Returns the mean of paired differences with a percentile bootstrap interval, reproducibly."""
    source = np.random.default_rng(0)
    size = len(differences)
    chunks = [min(1000, config.resamples - done) for done in range(0, config.resamples, 1000)]  # bounds memory
    means = np.concatenate([differences[source.integers(size, size=(chunk, size))].mean(1) for chunk in chunks])
    tail = (1 - config.confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Estimate(mean=float(differences.mean()), low=float(low), high=float(high))


def wilson(successes: int, trials: int, confidence: float) -> Estimate:
    """Returns a share with its Wilson score interval, which stays in [0, 1] and is not empty at 0 or 1."""
    z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    # At 0 and at 1 an end of the interval is the share itself, which rounding would miss.
    return Estimate(mean=share, low=max(0.0, min(share, centre - half)), high=min(1.0, max(share, centre + half)))


def normal(values: list[float], confidence: float) -> Estimate:
    """Returns a mean with its normal interval."""
    z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    mean = statistics.fmean(values)
    half = z * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return Estimate(mean=mean, low=mean - half, high=mean + half)


def best(reports: list[EvalReport]) -> int:
    """Returns the index of the report with the highest solved share, then reward, then round."""
    return max(range(len(reports)), key=lambda i: (reports[i].solved.mean, reports[i].reward.mean, reports[i].round))
