"""Does learning stay where it got to? The default experiment with and without its pull, from one of its bases.

python -m pytest -m slow -s tests/bench/test_stability.py

The figure is docs/learning.svg, and docs/learning.md explains it.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib
import pytest

from tasks.gdsd.run.comparison import worst_drop
from tests.bench.harness import ROOT, show
from tests.bench.test_learning import Measured, train

matplotlib.use("svg")
FIGURE = ROOT / "docs" / "learning.svg"
BASE = 1
PULLS: dict[str, dict[str, object]] = {
    "no pull": {"reference_weight": 0.0},
    "pull on each token": {},
}
PANELS = {
    "solved, validation": "validation/solved",
    "empty cells right, validation": "validation/reward",
    "given cells kept, rollouts": "reward/part/clues",
    "solved, rollouts": "reward/solved",
    "groups without spread": "group/frac_zero_std",
    "entropy of a token, nats": "policy/nll",
    "distinct completions of a group": "group/frac_distinct",
    "completions beyond the trust region": "clip/frac",
}
SMOOTHED = 5  # rounds whose mean is drawn; a validation stands alone


def metrics(run: Measured) -> list[dict[str, float | None]]:
    return [json.loads(json.dumps(row)) for row in run.record.metrics()]


def curve(rows: list[dict[str, float | None]], name: str) -> tuple[list[int], list[float]]:
    """The rounds in which a metric is known, and its means over a few of them."""
    known = [(number, value) for number, row in enumerate(rows, 1) if (value := row.get(name)) is not None]
    size = 1 if name.startswith("validation") else SMOOTHED
    parts = [known[start : start + size] for start in range(0, len(known), size)]
    return [part[-1][0] for part in parts], [sum(value for _, value in part) / len(part) for part in parts]


def draw_figure(found: dict[str, list[dict[str, float | None]]]) -> None:
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "learning"
    figure, panels = pyplot.subplots(2, len(PANELS) // 2, figsize=(13, 5.6), layout="constrained")
    for panel, (title, name) in zip(panels.flat, PANELS.items(), strict=True):
        for (pull, rows), style in zip(found.items(), ("--", "-"), strict=True):
            panel.plot(*curve(rows, name), style, label=pull)
        panel.set_title(title, fontsize="medium")
    for panel in panels[-1]:
        panel.set_xlabel("round")
    figure.legend(
        *panels.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(found), frameon=False
    )
    figure.savefig(FIGURE, metadata={"Date": None})
    pyplot.close(figure)


@pytest.mark.slow
def test_what_keeps_learning_stable(tmp_path: Path) -> None:
    """What docs/learning.md says: without a pull on each token the policy forgets what the reward does not look at."""
    with ThreadPoolExecutor(2) as pool:
        done = pool.map(lambda pull: train("tiny_sudoku", tmp_path / pull, base=BASE, **PULLS[pull]), PULLS)
        runs = dict(zip(PULLS, done, strict=True))
    found = {pull: metrics(run) for pull, run in runs.items()}
    rows = {}
    for pull, run in runs.items():
        validations = [(report.round, report.solved.mean) for report in run.record.validations]
        rows[pull] = {
            "gain, points": run.record.decision.solved_difference.points(),
            "last validation": f"{validations[-1][1]:.1%}",
            "best validation": f"{max(solved for _, solved in validations):.1%}",
            "worst drop, points": 100 * worst_drop(validations),
            "given cells kept": f"{curve(found[pull], PANELS['given cells kept, rollouts'])[1][-1]:.1%}",
            "processor seconds": run.processor_seconds,
        }
    show(f"policy.seed {BASE}", rows)
    draw_figure(found)
    gains = {pull: run.record.decision.solved_difference.mean for pull, run in runs.items()}
    assert gains["pull on each token"] > gains["no pull"] + 0.1
