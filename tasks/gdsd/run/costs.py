"""What a run cost: device-seconds by stage, and money where the configuration knows a price."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.gdsd.config.hardware import TrainHardwareConfig
from tasks.gdsd.records import CheckStats, EpochStats, EvalReport, PolicyStats, Progress, PromptStats, RewardStats

CPU = "cpu"
HOUR = 3600.0


@dataclass(frozen=True)
class StageCost:
    """The work of a stage, without what lies between: starts, loads, transfers and waiting."""

    stage: str
    seconds: float  # summed over shards
    device: str | None  # that did the work; None where no record names it
    devices: int = 1  # at work at a time, for each shard
    tokens: int = 0  # of completions that were made
    price: float | None = None  # of a device-hour

    @property
    def device_seconds(self) -> float:
        """Seconds of work, counted once for each device."""
        return self.seconds * self.devices

    @property
    def money(self) -> float | None:
        """What they cost, in the currency of the price."""
        return None if self.price is None else self.price * self.device_seconds / HOUR


def stage_costs(
    hardware: TrainHardwareConfig,
    prompts: PromptStats,
    check: CheckStats,
    policy: PolicyStats,
    rounds: Progress,
    evaluations: Sequence[EvalReport],
    since: float = -math.inf,
) -> list[StageCost]:
    """Returns the costs of a run's stages, in the order of the pipeline; those that it does not have are left out.

    Args:
        evaluations: all of the run: on validation and test problems, and of the guards.
        since: work that ended before is left out; in seconds since 1970.
    """
    asked, checked, made = (stats.ended_unix_seconds >= since for stats in (prompts, check, policy))
    found = [
        StageCost("prompts", prompts.seconds * asked, CPU, price=hardware.prompts.price),
        StageCost("check", check.seconds * checked, CPU, price=hardware.scoring.price),
        StageCost("policy", policy.seconds * made, policy.device, price=hardware.policy.price),
        *_round_costs(hardware, rounds.since(since), [report.since(since) for report in evaluations]),
    ]
    return [cost for cost in found if cost.seconds > 0]


def device_seconds(hardware: TrainHardwareConfig, rounds: Progress) -> tuple[float, float]:
    """Returns the seconds that GPUs, and that machines without one, were at work for some rounds."""
    costs = _round_costs(hardware, rounds, rounds.validations)
    gpu = sum((cost.device_seconds for cost in costs if cost.device not in (CPU, None)), 0.0)
    return gpu, sum((cost.device_seconds for cost in costs if cost.device == CPU), 0.0)


def _round_costs(hardware: TrainHardwareConfig, rounds: Progress, evaluations: Sequence[EvalReport]) -> list[StageCost]:
    rewards, epochs = rounds.rewards, rounds.epochs
    rollout, distill = hardware.rollout.price, hardware.distill.price
    scoring = sum(report.scoring_seconds for report in evaluations)
    # A GPU for each process, or a machine whose cores they share.
    at_work = max((1 if epoch.device == CPU else epoch.processes for epoch in epochs), default=1)
    answering = sum(report.seconds for report in evaluations) - scoring
    return [
        StageCost("drift", sum(drift.seconds for drift in rounds.drifts), _named(rewards), price=rollout),
        StageCost(
            "rollout",
            sum(reward.rollout_seconds for reward in rewards),
            _named(rewards),
            tokens=sum(reward.tokens for reward in rewards),
            price=rollout,
        ),
        StageCost("reward", sum(reward.reward_seconds for reward in rewards), CPU, price=hardware.scoring.price),
        StageCost("distill", sum(epoch.seconds for epoch in epochs), _named(epochs), at_work, price=distill),
        StageCost(
            "evaluate: answers",
            answering,
            _named(evaluations),
            tokens=sum(report.tokens for report in evaluations),
            price=hardware.evaluation.price,
        ),
        StageCost("evaluate: verdicts", scoring, CPU, price=hardware.scoring.price),
    ]


def money(costs: Sequence[StageCost]) -> float | None:
    """Returns what the stages with a price cost together, None where none has one."""
    known = [cost.money for cost in costs if cost.money is not None]
    return sum(known) if known else None


def _named(records: Sequence[RewardStats | EpochStats | EvalReport]) -> str | None:
    """The devices that did a stage's work."""
    return ", ".join(sorted({record.device for record in records if record.device})) or None
