"""How the training went: the small figures, and warnings to the reader."""

import html
from collections.abc import Callable, Sequence

from tasks.gdsd.records import EvalReport, Progress, RewardStats, StepStats
from tasks.gdsd.report.curves import Line, Panel


def panels(run: Progress, base: EvalReport | None = None, best: EvalReport | None = None) -> list[Panel]:
    """Returns the small figures of some rounds; those of which nothing is known stay empty and are not drawn.

    Args:
        base: what the base reaches on the test problems.
        best: what the published round reaches on them.
    """

    def of_rollouts(name: str, read: Callable[[RewardStats], float | None]) -> Line:
        return Line(name, range(1, len(run.rewards) + 1), [read(reward) for reward in run.rewards])

    def of_updates(name: str, read: Callable[[StepStats], float | None], place: int = -1) -> Line:
        applied = [epoch.applied() for epoch in run.epochs]
        return Line(name, rounds, [read(steps[place]) if steps else None for steps in applied])

    rounds = [epoch.round for epoch in run.epochs]
    validated = [report.reward for report in run.validations]
    validation = Line(
        "validation", [report.round for report in run.validations], [each.mean for each in validated], validated
    )
    surprise = [epoch.steps[0].nll if epoch.steps else None for epoch in run.epochs]
    cut = [
        of_rollouts("out of tokens", lambda reward: reward.truncated),
        of_rollouts("empty", lambda reward: reward.empty),
    ]
    return [
        Panel(
            "Reward",
            [of_rollouts("rollouts", lambda reward: reward.reward_mean), validation],
            level=None if base is None else ("base", base.reward.mean),
            mark=None if best is None else ("test", best.round, best.reward),
        ),
        Panel("Rollouts solved", [of_rollouts("", lambda reward: reward.solved)], percent=True),
        Panel("Groups without spread", [of_rollouts("", lambda reward: reward.frac_zero_std)], percent=True),
        Panel(
            "Shift and residual, nats per token",
            [of_updates("shift", lambda step: step.shift_abs), of_updates("residual", lambda step: step.residual_abs)],
        ),
        Panel("Surprise, nats per token", [Line("", rounds, surprise)]),
        Panel("KL to the base, per token", [of_updates("", lambda step: step.kl_ref)]),
        Panel("Clipped gradient", [of_updates("", lambda step: step.clipped)], percent=True),
        Panel(
            "Loss",
            [of_updates("first update", lambda step: step.loss, 0), of_updates("last update", lambda step: step.loss)],
        ),
        Panel("Gradient norm", [of_updates("", lambda step: step.grad_norm)]),
        Panel("Learning rate", [of_updates("", lambda step: step.learning_rate)]),
        Panel("Rollouts cut off, or empty", cut, percent=True),
        Panel("Rollout tokens per second", [of_rollouts("", lambda reward: reward.tokens / reward.rollout_seconds)]),
    ]


def concerns_html(concerns: Sequence[tuple[str, str]]) -> str:
    """Returns what a reader is warned of, and what to try."""
    return "".join(
        f"<p class='warning'><b>{html.escape(what)}</b> {html.escape(remedy)}</p>" for what, remedy in concerns
    )
