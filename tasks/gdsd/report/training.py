"""How the training went: the small figures, and warnings to the reader."""

import html
from collections.abc import Callable, Sequence
from dataclasses import replace

from tasks.gdsd.records import EvalReport, Progress, RewardStats, StepStats
from tasks.gdsd.report.curves import Line, Panel

MEANINGS = {  # of the words in a figure's title, for a reader who meets them here
    "Reward": "Mean over the answers. Vertical lines are 95 % intervals.",
    "Rollouts solved": "Share of the round's rollouts that are right.",
    "Groups without spread": "A group is all rollouts of a problem. If all have the same reward, the update learns "
    "nothing from them.",
    "Shift and residual, nats per token": "How far the model's score of a rollout is, at the last update, from its "
    "score before the round (shift), and from its target (residual). A nat is 1.44 bits.",
    "Surprise, nats per token": "Mean -log p of the rollouts' tokens, by the policy that drew them. The surer it is, "
    "the lower.",
    "KL to the base, per token": "Estimated divergence, in nats, from the policy that training began with.",
    "Clipped gradient": "Share that the objective's clip or trust region stops at the last update.",
    "Loss": "What the updates make smaller, anew in each round.",
    "Gradient norm": "At the last update, before it is cut.",
    "Learning rate": "At the last update.",
    "Rollouts cut off, or empty": "Shares that ran out of tokens before they had the form asked for, and without text.",
    "Rollout tokens per second": "While rollouts are made, without loads and starts.",
}


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
    found = [
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
    return [replace(panel, meaning=MEANINGS[panel.title]) for panel in found]


def concerns_html(concerns: Sequence[tuple[str, str]]) -> str:
    """Returns what a reader is warned of, and what to try."""
    return "".join(
        f"<p class='warning'><b>{html.escape(what)}</b> {html.escape(remedy)}</p>" for what, remedy in concerns
    )
