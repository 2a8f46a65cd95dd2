"""Does learning stay where it got to? The default experiment, and the recipe of version 0.1, from one of its bases.

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
EARLIER: dict[str, object] = {"mask_source": "trajectory", "path_states": None, "reference_weight": 0.0}
RECIPES: dict[str, dict[str, object]] = {  # what they change of the default experiment's distillation
    "version 0.1": {"objective": EARLIER, "learning_rate": 1e-3, "ema_decay": 0.0},
    "the default": {},
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
        for (recipe, rows), style in zip(found.items(), ("--", "-"), strict=True):
            panel.plot(*curve(rows, name), style, label=recipe)
        panel.set_title(title, fontsize="medium")
    for panel in panels[-1]:
        panel.set_xlabel("round")
    figure.legend(
        *panels.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(found), frameon=False
    )
    figure.savefig(FIGURE, metadata={"Date": None})
    pyplot.close(figure)


def measure(home: Path, **changed: object) -> Measured:
    return train("tiny_sudoku", home, base=BASE, **changed)


@pytest.mark.slow
def test_what_keeps_learning_stable(tmp_path: Path) -> None:
    """What docs/learning.md says: the earlier recipe gains little and swings, and the default does not."""
    with ThreadPoolExecutor(2) as pool:
        done = pool.map(lambda name: measure(tmp_path / name.replace(" ", "-"), **RECIPES[name]), RECIPES)
        runs = dict(zip(RECIPES, done, strict=True))
    found = {name: metrics(run) for name, run in runs.items()}
    rows = {}
    for name, run in runs.items():
        validations = [(report.round, report.solved.mean) for report in run.record.validations]
        rows[name] = {
            "gain, points": run.record.decision.solved_difference.points(),
            "last validation": f"{validations[-1][1]:.1%}",
            "best validation": f"{max(solved for _, solved in validations):.1%}",
            "worst drop, points": 100 * worst_drop(validations),
            "given cells kept": f"{curve(found[name], PANELS['given cells kept, rollouts'])[1][-1]:.1%}",
            "processor seconds": run.processor_seconds,
        }
    show(f"policy.seed {BASE}", rows)
    draw_figure(found)
    gains = {name: run.record.decision.solved_difference.mean for name, run in runs.items()}
    assert gains["the default"] > gains["version 0.1"] + 0.1
