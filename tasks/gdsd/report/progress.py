"""The page of a run that has not ended."""

import html
from collections.abc import Sequence

from tasks.gdsd.records import EpochStats, EvalReport, RewardStats
from tasks.gdsd.report import curves, training
from tasks.gdsd.report.style import document


def progress_page(
    name: str,
    rounds: int,  # that the run is to have
    rewards: Sequence[RewardStats],
    epochs: Sequence[EpochStats],
    validations: Sequence[EvalReport],
    concerns: Sequence[tuple[str, str]] = (),  # what is wrong, and what to try
    times: str = "",  # what a round takes, and the rest
) -> str:
    """Returns the page of a run after some of its rounds; drawing takes well under a second."""
    done, title = len(epochs), html.escape(name)
    last = f"reward {rewards[-1].reward_mean:.3f}" if rewards else "no reward yet"
    if validations:
        last += f", {validations[-1].solved.percent()} of the validation problems solved after round "
        last += str(validations[-1].round)
    return document(
        f"{name}: round {done} of {rounds}",
        [
            f"<h1>{title}: round {done} of {rounds}</h1><p class='sub'>{html.escape(last)}. {html.escape(times)}</p>",
            training.concerns_html(concerns),
            curves.headline([reward.reward_mean for reward in rewards], validations),
            "<h2>Training</h2>",
            f"<div class='panels'>{curves.draw(training.panels(rewards, epochs, validations))}</div>",
        ],
    )
