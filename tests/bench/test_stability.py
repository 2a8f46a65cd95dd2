"""Is today's recipe better than that of version 0.1? Sudoku from two bases, with five seeds each, at equal rollouts.

python -m pytest -m slow -s tests/bench/test_stability.py

These are 20 runs, two at a time. docs/learning.md has the table, and docs/learning.svg is of the first two.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib
import pytest

from tasks.gdsd.config.objective import GdsdConfig
from tasks.gdsd.run.comparison import over_seeds
from tasks.gdsd.run.run_record import RunRecord
from tests.bench.harness import ROOT, show
from tests.bench.test_learning import Measured, late_drop, train

matplotlib.use("svg")
FIGURE = ROOT / "docs" / "learning.svg"
BASES, SEEDS = (1, 0), range(5)
# What the recipe of version 0.1 has instead of today's. Problems and models are today's.
EARLIER: dict[str, Any] = {
    "learning_rate": 0.001,
    "ema_decay": 0.0,
    "objective": {"mask_source": "trajectory", "path_states": None, "reference_weight": 0.0},
}
RECIPES: dict[str, dict[str, Any]] = {"version 0.1": EARLIER, "today": {}}
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


def passes(record: RunRecord) -> list[float]:
    """What has gone through the network after each round, in forward passes of a whole sequence.

    A step of a rollout is one for each completion. A view is one where it is only read, of the policy or the base, and
    three where it is trained on, since a backward pass costs twice a forward one.
    """
    config, spent, found = record.config, 0.0, list[float]()
    objective = config.distill.objective
    assert isinstance(objective, GdsdConfig)
    views = objective.path_states if objective.mask_source == "path" else 2 * objective.mask_pairs
    assert views is not None
    read = (config.distill.ema_decay > 0) + objective.needs_reference  # else the first update reads the old policy
    rollouts = config.rollout.prompts_per_round * config.rollout.group_size * config.rollout.sampler.steps
    for epoch in record.epochs:
        spent += rollouts + epoch.sequences * views * (read + 3 * len(epoch.steps))
        found.append(spent)
    return found


def solved_within(record: RunRecord, budget: float) -> float:
    """The solved share of the last validation before a number of passes was spent."""
    spent = [0.0, *passes(record)]
    return [report.solved.mean for report in record.validations if spent[report.round] <= budget][-1]


def standing(runs: Sequence[Measured], budget: float) -> dict[str, float | str]:
    records = [run.record for run in runs]
    return {
        "gain, points": over_seeds([one.decision.solved_difference.mean for one in records]).points(),
        "solved": over_seeds([one.trained.solved.mean for one in records]).percent(),
        "worst seed": f"{min(one.trained.solved.mean for one in records):.1%}",
        "validation at equal passes": over_seeds([solved_within(one, budget) for one in records]).percent(),
        "worst late drop": 100 * max(map(late_drop, records)),
        "million passes": fmean(passes(one)[-1] for one in records) / 1e6,
        "processor seconds": fmean(run.processor_seconds for run in runs),
    }


def metrics(record: RunRecord) -> list[dict[str, float | None]]:
    return [json.loads(json.dumps(row)) for row in record.metrics() if row["kind"] == "round"]


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


@pytest.mark.slow
def test_todays_recipe_beats_the_earlier_one(tmp_path: Path) -> None:
    """What docs/learning.md says, with intervals that are apart on each base."""
    wanted = [(base, seed, name) for base in BASES for seed in SEEDS for name in RECIPES]

    def measure(base: int, seed: int, recipe: str) -> Measured:
        home = tmp_path / f"{base}-{seed}-{recipe}".replace(" ", "-")
        return train("tiny_sudoku", home, base=base, seed=seed, **RECIPES[recipe])

    with ThreadPoolExecutor(2) as pool:
        runs = dict(zip(wanted, pool.map(lambda one: measure(*one), wanted), strict=True))
    for base in BASES:
        found = {name: [runs[base, seed, name] for seed in SEEDS] for name in RECIPES}
        budget = min(passes(run.record)[-1] for some in found.values() for run in some)
        show(f"policy.seed {base}", {name: standing(some, budget) for name, some in found.items()})
        gains = {
            name: over_seeds([run.record.decision.solved_difference.mean for run in some])
            for name, some in found.items()
        }
        assert gains["today"].low > gains["version 0.1"].high
    draw_figure({name: metrics(runs[BASES[0], 0, name].record) for name in RECIPES})
