"""The drift of an approximate engine: its completions against the exact engine's, from the same random numbers.

Problems and random numbers are the same in each round of a run. Only the policy changes from round to round.
"""

import logging
import statistics
import time
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from tasks.gdsd import seeds
from tasks.gdsd.config.evaluate import GateConfig
from tasks.gdsd.config.sampler import DriftConfig, ExactConfig, RolloutEngine, SamplerConfig
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.distill import masking
from tasks.gdsd.domains import DomainChoice
from tasks.gdsd.evaluate import intervals
from tasks.gdsd.records import DriftStats, Estimate, RolloutStats
from tasks.gdsd.reward import rewards
from tasks.gdsd.rollout import shard

logger = logging.getLogger(__name__)
EXACT = RolloutEngine(ExactConfig())


def sample(
    denoiser: Denoiser,
    train: pa.Table,
    settings: SamplerConfig,
    choice: RolloutEngine,
    *,
    size: int,
    batch_size: int,
    seed: int,
) -> tuple[list[dict[str, object]], list[RolloutStats]]:
    """Completes some training problems once by each engine: rows of `tables.ROLLOUTS`, and what each engine's cost.

    There are `size` problems, or all where there are fewer.
    """
    order = torch.randperm(train.num_rows, generator=seeds.generator(seed, "drift"))
    problems = train.take(order[:size].tolist()).to_pylist()
    asked = [(problem, 0, seeds.key(seed, "drift", problem["id"])) for problem in problems]
    made = [
        shard.complete(denoiser, asked, settings, engine, batch_size, f"drift: {engine.root.name}")
        for engine in (choice, EXACT)
    ]
    return [vars(rollout) for rollouts, _ in made for rollout in rollouts], [stats for _, stats in made]


def measure(
    made: pa.Table,  # `sample`'s
    costs: Sequence[RolloutStats],
    end_ids: Sequence[int],  # the policy's
    choice: RolloutEngine,
    limits: DriftConfig,
    domain: DomainChoice,
    round_index: int,
) -> tuple[DriftStats, RolloutEngine]:
    """Says how far apart the engines are, and which one makes the rollouts from here on.

    Tokens are compared up to the later end of a problem's two completions, rewards where both have a verdict.

    Raises:
        DataError: the domain's verdicts are not what it declares.
    """
    began = time.monotonic()
    judged = rewards.verify(made, domain)
    ours, exact = (judged.filter(pc.field("engine") == engine.root.name).to_pylist() for engine in (choice, EXACT))
    pairs = list(zip(ours, exact, strict=True))
    tokens, exact_tokens = (torch.tensor([row["completion_ids"] for row in rows]) for rows in (ours, exact))  # (P, L)
    agreement = agree(tokens, exact_tokens, end_ids)
    both = [(one["reward"], other["reward"]) for one, other in pairs if None not in (one["reward"], other["reward"])]
    reward_gap = gap([one - other for one, other in both])
    reason = exceeded(agreement, reward_gap, limits)
    stats = DriftStats(
        round=round_index + 1,
        engine=choice.root.name,
        completions=len(pairs),
        agreement=agreement,
        reward_gap=reward_gap,
        exact_reward=statistics.fmean(other for _, other in both) if both else None,
        positions=costs[0].positions,
        exact_positions=costs[1].positions,
        fell_back=reason is not None,
        reason=reason or ("within the limits" if both else "within the limit of tokens; no rewards to compare"),
        seconds=sum(cost.seconds for cost in costs) + time.monotonic() - began,
    )
    _announce(stats)
    return stats, EXACT if stats.fell_back else choice


def _announce(stats: DriftStats) -> None:
    if stats.fell_back:
        logger.warning(
            "round %d: %s has drifted, so the exact engine makes the rollouts from here on: %s",
            stats.round,
            stats.engine,
            stats.reason,
        )
    elif stats.agreement is not None:
        logger.info(
            "round %d: %s of the tokens of %s are the exact engine's, reward %s, %.0f %% of the positions (%.1f s)",
            stats.round,
            stats.agreement.percent(),
            stats.engine,
            "not judged" if stats.reward_gap is None else f"{stats.reward_gap.mean:+.3f}",
            100 * stats.positions / stats.exact_positions,
            stats.seconds,
        )


def unmeasured(round_index: int) -> DriftStats:
    """Returns what there is to say of a round after the run has gone back to the exact engine."""
    return DriftStats(
        round=round_index + 1,
        engine=EXACT.root.name,
        completions=0,
        agreement=None,
        reward_gap=None,
        exact_reward=None,
        positions=0,
        exact_positions=0,
        fell_back=False,
        reason="the run has gone back to the exact engine",
        seconds=0.0,
    )


def agree(
    ours: Tensor,  # (P, L) int64
    exact: Tensor,  # (P, L) int64, of the same problems
    end_ids: Sequence[int],
) -> Estimate:
    """Returns the share of equal tokens in the same places, up to the later end of a problem's two completions.

    What follows both ends is end tokens for the most part, which would agree whatever the answers are.
    """
    counted = masking.counted_tokens(ours, end_ids) | masking.counted_tokens(exact, end_ids)  # (P, L)
    equal = ((ours == exact) & counted).sum(1) / counted.sum(1)
    return intervals.share(equal.tolist(), int(counted.sum()), 0.95)


def exceeded(agreement: Estimate, reward_gap: Estimate | None, limits: DriftConfig) -> str | None:
    """Returns which limit is exceeded by a whole interval and what to change, None where none is."""
    remedy = "to keep the engine widen the limit, or with a cache set a smaller rollout.engine.refresh_every"
    if agreement.high < limits.agreement:
        return (
            f"{agreement.percent()} of the tokens are equal, less than rollout.engine.drift.agreement "
            f"{100 * limits.agreement:g} %; {remedy}"
        )
    found = reward_gap
    if found is not None and (found.low > limits.reward_gap or found.high < -limits.reward_gap):
        return (
            f"the mean reward is {found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f}) off, more than "
            f"rollout.engine.drift.reward_gap {limits.reward_gap:g}; {remedy}"
        )
    return None


def gap(gains: Sequence[float]) -> Estimate | None:
    """Returns the paired difference of rewards with its 95 % interval, None without any.

    Where few differ the interval is that of shares, so larger gains are scaled to [-1, 1].
    """
    if not gains:
        return None
    scale = max(1.0, *map(abs, gains))
    found = intervals.difference(np.asarray(gains) / scale, GateConfig())
    return Estimate(mean=scale * found.mean, low=scale * found.low, high=scale * found.high)
