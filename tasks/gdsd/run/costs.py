"""What a run cost: device-seconds by stage, and money where the configuration knows a price."""

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.gdsd.config.hardware import TrainHardwareConfig
from tasks.gdsd.records import DriftStats, EpochStats, EvalReport, PolicyStats, Progress, PromptStats, RewardStats

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
    policy: PolicyStats,
    rounds: Progress,
    evaluations: Sequence[EvalReport],
) -> list[StageCost]:
    """Returns the costs of a run's stages, in the order of the pipeline; those that it does not have are left out.

    Args:
        evaluations: all of the run: on validation and test problems, and of the guards.
    """
    rewards, epochs = rounds.rewards, rounds.epochs
    scoring = sum(report.scoring_seconds for report in evaluations)
    at_work = max((_at_work(epoch) for epoch in epochs), default=1)
    found = [
        StageCost("prompts", prompts.seconds, CPU, price=hardware.prompts.price),
        StageCost("policy", policy.seconds, policy.device, price=hardware.policy.price),
        StageCost(
            "drift", sum(drift.seconds for drift in rounds.drifts), _named(rewards), price=hardware.rollout.price
        ),
        StageCost(
            "rollout",
            sum(reward.rollout_seconds for reward in rewards),
            _named(rewards),
            tokens=sum(reward.tokens for reward in rewards),
            price=hardware.rollout.price,
        ),
        StageCost("reward", sum(reward.reward_seconds for reward in rewards), CPU, price=hardware.scoring.price),
        StageCost(
            "distill",
            sum(epoch.seconds for epoch in epochs),
            _named(epochs),
            at_work,
            price=hardware.distill.price,
        ),
        StageCost(
            "evaluate: answers",
            sum(report.seconds for report in evaluations) - scoring,
            _named(evaluations),
            tokens=sum(report.tokens for report in evaluations),
            price=hardware.evaluation.price,
        ),
        StageCost("evaluate: verdicts", scoring, CPU, price=hardware.scoring.price),
    ]
    return [cost for cost in found if cost.seconds > 0]


def round_device_seconds(
    reward: RewardStats, epoch: EpochStats, drift: DriftStats | None, validation: EvalReport | None
) -> tuple[float, float]:
    """Returns the seconds that GPUs, and that machines without one, were at work for a round."""
    parts = [
        (reward.device, reward.rollout_seconds),
        (CPU, reward.reward_seconds),
        (epoch.device, epoch.seconds * _at_work(epoch)),
    ]
    if drift is not None:
        parts.append((reward.device, drift.seconds))
    if validation is not None:
        parts += [(validation.device, validation.seconds - validation.scoring_seconds)]
        parts += [(CPU, validation.scoring_seconds)]
    gpu = sum((seconds for device, seconds in parts if device not in (CPU, None)), 0.0)
    return gpu, sum((seconds for device, seconds in parts if device == CPU), 0.0)


def _at_work(epoch: EpochStats) -> int:
    """Returns how many devices an epoch had: a GPU for each process, or a machine whose cores they share."""
    return 1 if epoch.device == CPU else epoch.processes


def money(costs: Sequence[StageCost]) -> float | None:
    """Returns what the stages with a price cost together, None where none has one."""
    known = [cost.money for cost in costs if cost.money is not None]
    return sum(known) if known else None


def _named(records: Sequence[RewardStats | EpochStats | EvalReport]) -> str | None:
    """The devices that did a stage's work."""
    return ", ".join(sorted({record.device for record in records if record.device})) or None
