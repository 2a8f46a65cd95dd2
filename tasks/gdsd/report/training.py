"""How the training went: the small figures, and what a reader is to be warned of."""

import html
from collections.abc import Callable, Sequence

from tasks.gdsd.records import EpochStats, EvalReport, RewardStats, StepStats
from tasks.gdsd.report.curves import Line, Panel


def panels(
    rewards: Sequence[RewardStats],
    epochs: Sequence[EpochStats],
    validations: Sequence[EvalReport],
    base: EvalReport | None = None,
    best: EvalReport | None = None,
) -> list[Panel]:
    """Returns the small figures of some rounds; those of which nothing is known stay empty and are not drawn.

    Args:
        base: what the base reaches on the test problems.
        best: what the published round reaches on them.
    """
    reward, solved, flat, cut, speed = _of_rollouts(rewards)
    validated = Line(
        "validation",
        [report.round for report in validations],
        [report.reward.mean for report in validations],
        [report.reward for report in validations],
    )
    both = Panel(
        "Reward",
        [reward, validated],
        level=None if base is None else ("base", base.reward.mean),
        mark=None if best is None else ("test", best.round, best.reward),
    )
    return [both, solved, flat, *_of_updates(epochs), cut, speed]


def _of_rollouts(rewards: Sequence[RewardStats]) -> tuple[Line, Panel, Panel, Panel, Panel]:
    def line(name: str, value: Callable[[RewardStats], float | None]) -> Line:
        return Line(name, range(1, len(rewards) + 1), [value(reward) for reward in rewards])

    return (
        line("rollouts", lambda reward: reward.reward_mean),
        Panel("Rollouts solved", [line("", lambda reward: reward.solved)], percent=True),
        Panel("Groups without spread", [line("", lambda reward: reward.frac_zero_std)], percent=True),
        Panel(
            "Rollouts cut off, or empty",
            [line("out of tokens", lambda reward: reward.truncated), line("empty", lambda reward: reward.empty)],
            percent=True,
        ),
        Panel("Rollout tokens per second", [line("", lambda reward: reward.tokens / reward.rollout_seconds)]),
    )


def _of_updates(epochs: Sequence[EpochStats]) -> list[Panel]:
    rounds = [epoch.round for epoch in epochs]

    def line(name: str, value: Callable[[StepStats], float | None], place: int = -1) -> Line:
        return Line(name, rounds, [applied(epoch, place, value) for epoch in epochs])

    surprise = [epoch.steps[0].nll if epoch.steps else None for epoch in epochs]
    return [
        Panel(
            "Shift and residual, nats per token",
            [line("shift", lambda step: step.shift_abs), line("residual", lambda step: step.residual_abs)],
        ),
        Panel("Surprise, nats per token", [Line("", rounds, surprise)]),
        Panel("KL to the base, per token", [line("", lambda step: step.kl_ref)]),
        Panel("Clipped gradient", [line("", lambda step: step.clipped)], percent=True),
        Panel("Loss", [line("first update", lambda step: step.loss, 0), line("last update", lambda step: step.loss)]),
        Panel("Gradient norm", [line("", lambda step: step.grad_norm)]),
        Panel("Learning rate", [line("", lambda step: step.learning_rate)]),
    ]


def applied(epoch: EpochStats, place: int, value: Callable[[StepStats], float | None]) -> float | None:
    """Returns what one of an epoch's updates says, counting those that were applied; None where there is none."""
    steps = [step for step in epoch.steps if not step.skipped]
    return value(steps[place]) if steps else None


def concerns_html(concerns: Sequence[tuple[str, str]]) -> str:
    """Returns what a reader is warned of, and what to try."""
    return "".join(
        f"<p class='warning'><b>{html.escape(what)}</b> {html.escape(remedy)}</p>" for what, remedy in concerns
    )
