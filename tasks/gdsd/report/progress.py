"""The page of a run that has not ended."""

import html
from collections.abc import Sequence

from tasks.gdsd.records import Progress
from tasks.gdsd.report import curves, training
from tasks.gdsd.report.style import document


def progress_page(
    name: str,
    rounds: int,  # that the run is to have
    run: Progress,
    concerns: Sequence[tuple[str, str]] = (),  # what is wrong, and what to try
    times: str = "",  # what a round takes, and the rest
) -> str:
    """Returns the page of a run after some of its rounds; drawing takes well under a second."""
    title = f"{name}: round {len(run.epochs)} of {rounds}"
    last = f"reward {run.rewards[-1].reward_mean:.3f}" if run.rewards else "no reward yet"
    if run.validations:
        found = run.validations[-1]
        last += f", {found.solved.percent()} of the validation problems solved after round {found.round}"
    return document(
        title,
        [
            f"<h1>{html.escape(title)}</h1><p class='sub'>{html.escape(last)}. {html.escape(times)}</p>",
            training.concerns_html(concerns),
            curves.headline(run),
            "<h2>Training</h2>",
            f"<div class='panels'>{curves.draw(training.panels(run))}</div>",
        ],
    )
