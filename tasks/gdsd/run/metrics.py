"""The metrics of a run's rounds and of what it came to, under the names of docs/metrics.md.

A name with a slash is a metric's. The others say which row it is.
"""

from typing import Literal

from tasks.gdsd.config.hardware import TrainHardwareConfig
from tasks.gdsd.records import Decision, DriftStats, EpochStats, EvalReport, Progress, RewardStats
from tasks.gdsd.run.costs import device_seconds
from tasks.gdsd.run.overhead import RoundTime, round_times

Metrics = dict[str, float | int | str | None]


def metrics(hardware: TrainHardwareConfig, rounds: Progress, began: float) -> list[Metrics]:
    """Returns one flat row per round, of a run that has ended or goes on.

    Args:
        began: when the run began its rounds, in seconds since 1970; see `round_times`.
    """
    validated = {report.round: report for report in rounds.validations}
    drifted = {drift.round: drift for drift in rounds.drifts}
    return [
        _row(hardware, reward, epoch, timed, drifted.get(epoch.round), validated.get(epoch.round))
        for reward, epoch, timed in zip(rounds.rewards, rounds.epochs, round_times(began, rounds), strict=True)
    ]


def tested(kind: Literal["base", "test"], report: EvalReport) -> Metrics:
    """Returns a flat row of a policy on the test problems, at the round that it comes from: 0 for the base."""
    numbers = {"test/solved": report.solved.mean, "test/reward": report.reward.mean}
    return {"kind": kind, "round": report.round, **numbers}


def results(base: EvalReport, trained: EvalReport, decision: Decision, seconds: float) -> dict[str, float]:
    """Returns what a run came to on the test problems.

    Args:
        seconds: of all its work.
    """
    gain = decision.solved_difference
    return {
        "test/base_solved": base.solved.mean,
        "test/trained_solved": trained.solved.mean,
        "test/gain": gain.mean,
        "test/gain_low": gain.low,
        "test/gain_high": gain.high,
        "test/base_reward": base.reward.mean,
        "test/trained_reward": trained.reward.mean,
        "test/round": float(trained.round),
        "test/promoted": float(decision.promoted),
        "time/total_s": seconds,
        **{f"guard/{guard.name}": guard.difference.mean for guard in decision.guards},
    }


def _row(
    hardware: TrainHardwareConfig,
    reward: RewardStats,
    epoch: EpochStats,
    timed: RoundTime | None,
    drift: DriftStats | None,
    report: EvalReport | None,
) -> Metrics:
    applied = epoch.applied()
    last = applied[-1] if applied else None
    alone = Progress(
        drifts=[drift] if drift else [],
        rewards=[reward],
        epochs=[epoch],
        validations=[report] if report else [],
    )
    gpu_seconds, cpu_seconds = device_seconds(hardware, alone)
    row: Metrics = {
        "kind": "round",
        "round": epoch.round,
        "rollouts_after": epoch.round - 1,
        "reward/mean": reward.reward_mean,
        "reward/std": reward.reward_std,
        "reward/solved": reward.solved,
        "reward/frac_judged": reward.judged,
        **{f"reward/part/{name}": value for name, value in reward.parts.items()},
        "group/frac_zero_std": reward.frac_zero_std,
        "loss/first": applied[0].loss if applied else None,
        "loss/last": last.loss if last else None,
        "loss/residual_abs": last.residual_abs if last else None,
        "policy/nll": epoch.steps[0].nll if epoch.steps else None,
        "policy/shift_abs": last.shift_abs if last else None,
        "clip/frac": last.clipped if last else None,
        "kl/ref": last.kl_ref if last else None,
        "grad/norm": last.grad_norm if last else None,
        "update/learning_rate": last.learning_rate if last else None,
        "update/skipped": len(epoch.steps) - len(applied),
        "time/rollout_s": reward.rollout_seconds,
        "time/reward_s": reward.reward_seconds,
        "time/distill_s": epoch.seconds,
        "time/round_s": timed.seconds if timed else None,
        "time/overhead_frac": timed.share if timed else None,
        "cost/gpu_s": gpu_seconds,
        "cost/cpu_s": cpu_seconds,
        "rollout/engine": reward.engine,
        "rollout/frac_empty": reward.empty,
        "rollout/frac_truncated": reward.truncated,
        "group/frac_distinct": reward.distinct,
        "rollout/tokens_per_s": reward.tokens / reward.rollout_seconds,
    }
    return row | _of_drift(drift) | _of_validation(report)


def _of_drift(drift: DriftStats | None) -> Metrics:
    if drift is None or drift.agreement is None:
        return {}
    return {
        "drift/agreement": drift.agreement.mean,
        "drift/reward_gap": None if drift.reward_gap is None else drift.reward_gap.mean,
        "drift/frac_positions": drift.positions / drift.exact_positions,
        "time/drift_s": drift.seconds,
    }


def _of_validation(report: EvalReport | None) -> Metrics:
    return {} if report is None else {"validation/solved": report.solved.mean, "validation/reward": report.reward.mean}
