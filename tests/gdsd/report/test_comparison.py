"""What a comparison says of its runs: the choice of a learning rate, the numbers of the table, the page."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tasks.gdsd import tables
from tasks.gdsd.config.compare import CompareConfig
from tasks.gdsd.config.train import DistillConfig
from tasks.gdsd.records import EvalReport, Series, Tuning
from tasks.gdsd.report import comparison as comparison_report
from tasks.gdsd.run import comparison
from tasks.gdsd.run.comparison import ComparisonRecord
from tests.gdsd.series import validation


def run(*shares: float) -> list[EvalReport]:
    """A run evaluated every second round."""
    return [validation(2 * (index + 1), share, half=0.0, gained=share) for index, share in enumerate(shares)]


def series(contestant: str, seed: int, *shares: float, learning_rate: float = 1e-3, seconds: float = 10.0) -> Series:
    return Series(
        contestant=contestant,
        learning_rate=learning_rate,
        seed=seed,
        reports=run(*shares),
        rollout_rewards=[0.1 * index for index in range(2 * len(shares))],
        drifts=[],
        seconds=seconds,
    )


def record(*runs: Series, names: tuple[str, ...] = ("a", "b")) -> ComparisonRecord:
    config = CompareConfig(seeds=[0, 1], contestants={name: DistillConfig() for name in names})
    tuning = Tuning(contestant=names[0], distill=DistillConfig(), series=[series(names[0], 0, 0.2, 0.3)])
    return ComparisonRecord(config=config, base=validation(0, 0.1, gained=0.1), tunings=[tuning], series=list(runs))


RUNS = (
    series("a", 0, 0.5, 0.4),
    series("a", 1, 0.3, 0.6, seconds=20.0),
    series("b", 0, 0.2, 0.3),
    series("b", 1, 0.7, 0.5),
)


def tried(*runs: tuple[float, float, float]) -> list[Series]:
    """Tuning runs of (learning rate, first point, last point), each with a seed of its own."""
    return [series("a", seed, first, last, learning_rate=rate) for seed, (rate, first, last) in enumerate(runs)]


def test_the_rate_that_ends_highest_is_chosen() -> None:
    """If it fails, an objective is compared at a learning rate that does not suit it.

    Two seeds per rate. Means of the last points: rate 0.1: (0.2 + 0.4) / 2 = 0.3, rate 1: (0.5 + 0.3) / 2 = 0.4,
    although the single best point, 0.9 on its way, is the first rate's.
    """
    runs = tried((0.1, 0.1, 0.2), (1.0, 0.1, 0.5), (0.1, 0.9, 0.4), (1.0, 0.1, 0.3))
    assert comparison.best_learning_rate(runs) == 1.0
    # Ties go to the faster, then to the smaller rate, so that a rerun compares the same one.
    assert comparison.best_learning_rate(tried((1.0, 0.1, 0.5), (0.1, 0.2, 0.5))) == 0.1
    assert comparison.best_learning_rate(tried((0.1, 0.1, 0.5), (1.0, 0.2, 0.5))) == 1.0
    assert comparison.best_learning_rate(tried((1.0, 0.2, 0.5), (0.1, 0.2, 0.5))) == 0.1


@pytest.mark.parametrize(
    ("chosen", "remark"),
    [(0.1, "chosen, at the edge of the grid"), (0.3, "chosen</td>"), (1.0, "at the edge")],
)
def test_a_choice_at_the_edge_of_the_grid_is_said(chosen: float, remark: str) -> None:
    """If it fails, a contestant that wanted a still higher rate passes for well tuned."""
    runs = [series("a", 100, 0.1, 0.2, learning_rate=rate) for rate in (0.1, 0.3, 1.0)]
    distill = DistillConfig().model_copy(update={"learning_rate": chosen})
    whole = record(*RUNS).model_copy(update={"tunings": [Tuning(contestant="a", distill=distill, series=runs)]})
    assert remark in comparison_report.render(whole, "<svg></svg>")


def test_the_numbers_of_a_standing_by_hand() -> None:
    """If it fails, the table says something else than its head.

    Contestant a: curves from the base 0.1 at rounds 0, 2, 4: (0.1, 0.5, 0.4) and (0.1, 0.3, 0.6). Final mean 0.5,
    standard deviation 0.1414, Student's 97.5 % quantile for one degree of freedom 12.7062: half width
    12.7062 * 0.1414 / sqrt(2) = 1.2706. Areas (0.3 + 0.45) / 2 = 0.375 and (0.2 + 0.45) / 2 = 0.325. Only the first
    falls, by 0.1.
    """
    first, second = record(*RUNS).standings()
    assert (first.contestant, second.contestant) == ("a", "b")
    assert first.reward.mean == pytest.approx(0.5)
    assert first.reward.high - first.reward.mean == pytest.approx(1.27062, abs=1e-4)
    assert first.area.mean == pytest.approx(0.35)
    assert first.worst_drop == pytest.approx(0.1) and first.final_drop == pytest.approx(0.1)
    assert first.seconds == 15.0
    assert second.worst_drop == pytest.approx(0.2)
    # A fall that was made good is a drop all the same: 0.1, 0.6, 0.2, 0.7.
    runs = series("a", 0, 0.6, 0.2, 0.7), series("a", 1, 0.6, 0.7, 0.7)
    shaky = record(*runs, names=("a",)).standings()[0]
    assert shaky.worst_drop == pytest.approx(0.4) and shaky.final_drop == 0.0
    # From (0, 0) to (2, 1): mean 0.5 over 2 rounds; from (2, 1) to (3, 1): 1 over 1.
    assert comparison.area([(0, 0.0), (2, 1.0), (3, 1.0)]) == pytest.approx((2 * 0.5 + 1) / 3)


def test_every_evaluation_is_a_row() -> None:
    """If it fails, the raw numbers cannot be used to repeat the table, or validation passes for test."""
    rows = comparison.points(record(*RUNS)).to_pylist()
    assert [row["split"] for row in rows].count("validation") == 2 and len(rows) == 10
    found = next(row for row in rows if (row["contestant"], row["seed"], row["round"]) == ("b", 1, 4))
    assert (found["solved"], found["split"], found["problems"]) == (0.5, "test", 256)
    assert found["rollout_reward"] == pytest.approx(0.3)  # of round 4, the fourth of 0, 0.1, 0.2, 0.3


def test_the_folder_holds_what_is_promised(tmp_path: Path) -> None:
    """If it fails, a person follows a path to nothing."""
    whole = record(*RUNS)
    page = comparison_report.write(tmp_path, whole)
    said = comparison_report.summary(whole)
    assert all((tmp_path / name).stat().st_size > 0 for name in comparison_report.FILES.values())
    assert pq.read_table(tmp_path / "curves.parquet").schema.equals(tables.CURVES)
    assert ComparisonRecord.model_validate_json((tmp_path / "comparison.json").read_text()) == whole
    assert (tmp_path / "table.md").read_text().count("\n") == 4
    assert page.startswith("<!doctype html>") and page.count("<svg") == 1 and "Learning rates" in page
    first = [line.split()[0] for line in said.splitlines() if line[:2] in ("a ", "b ")]
    assert first == ["a", "b"]
    assert comparison_report.curves(whole) == comparison_report.curves(whole), "a figure in version control stays"
