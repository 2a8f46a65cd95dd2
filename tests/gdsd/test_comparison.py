"""What a comparison says of its runs: the choice of a learning rate, the numbers of the table, the page."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tasks.gdsd import comparison, comparison_report, tables
from tasks.gdsd.compare_config import CompareConfig
from tasks.gdsd.comparison import ComparisonRecord
from tasks.gdsd.config import DistillConfig, SamplerConfig
from tasks.gdsd.records import Estimate, EvalReport, Protocol, Series, Tuning

PROTOCOL = Protocol(
    domain="sudoku", sampler=SamplerConfig(temperature=0.0), seed=0, problems=100, prompts_sha256="0" * 64
)


def report(at: int, solved: float) -> EvalReport:
    share = Estimate(mean=solved, low=solved, high=solved)
    return EvalReport(round=at, protocol=PROTOCOL, solved=share, reward=share, tokens=1, seconds=1.0)


def run(*shares: float) -> list[EvalReport]:
    """A run evaluated every second round."""
    return [report(2 * (index + 1), share) for index, share in enumerate(shares)]


def series(contestant: str, seed: int, *shares: float, learning_rate: float = 1e-3, seconds: float = 10.0) -> Series:
    return Series(
        contestant=contestant,
        learning_rate=learning_rate,
        seed=seed,
        reports=run(*shares),
        rollout_rewards=[0.1 * index for index in range(2 * len(shares))],
        seconds=seconds,
    )


def record(*runs: Series, names: tuple[str, ...] = ("a", "b")) -> ComparisonRecord:
    config = CompareConfig(seeds=[0, 1], contestants={name: DistillConfig() for name in names})
    tuning = Tuning(contestant=names[0], distill=DistillConfig(), series=[series(names[0], 0, 0.2, 0.3)])
    return ComparisonRecord(config=config, base=report(0, 0.1), tunings=[tuning], series=list(runs))


RUNS = (
    series("a", 0, 0.5, 0.4),
    series("a", 1, 0.3, 0.6, seconds=20.0),
    series("b", 0, 0.2, 0.3),
    series("b", 1, 0.7, 0.5),
)


def test_the_rate_that_ends_highest_is_chosen() -> None:
    """If it fails, an objective is compared at a learning rate that does not suit it.

    Two seeds per factor. Means of the last points: factor 0.1: (0.2 + 0.4) / 2 = 0.3, factor 1: (0.5 + 0.3) / 2 = 0.4,
    although the single best run, 0.9 on its way, is the first factor's.
    """
    runs = [run(0.1, 0.2), run(0.9, 0.4), run(0.1, 0.5), run(0.1, 0.3)]
    assert comparison.choose(DistillConfig(), [0.1, 1.0], runs) == 1


def test_ties_go_to_the_faster_then_to_the_smaller_rate() -> None:
    """If it fails, two equal rates are told apart by chance, and a rerun may compare another one."""
    assert comparison.choose(DistillConfig(), [1.0, 0.1], [run(0.1, 0.5), run(0.2, 0.5)]) == 1
    assert comparison.choose(DistillConfig(), [1.0, 0.1], [run(0.2, 0.5), run(0.2, 0.5)]) == 1


def test_runs_that_are_no_whole_number_per_factor_are_refused() -> None:
    """If it fails, runs are counted for the wrong learning rate."""
    with pytest.raises(ValueError, match="3 tuning runs"):
        comparison.choose(DistillConfig(), [0.1, 1.0], [run(0.1)] * 3)


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


def test_a_fall_that_was_made_good_is_a_drop_all_the_same() -> None:
    """If it fails, unstable training passes for stable because it ended well.

    0.1, 0.6, 0.2, 0.7: the deepest fall below the best so far is 0.4, and the last point is the best.
    """
    shaky = record(series("a", 0, 0.6, 0.2, 0.7), names=("a",)).standings()[0]
    assert shaky.worst_drop == pytest.approx(0.4) and shaky.final_drop == 0.0


def test_one_seed_has_no_interval() -> None:
    """If it fails, a single run pretends to a precision that nobody measured, or divides by zero."""
    assert comparison.over_seeds([0.4]) == Estimate(mean=0.4, low=0.4, high=0.4)


def test_area_weighs_by_rounds() -> None:
    """If it fails, a run whose last round is off the grid counts its last piece in full.

    From (0, 0) to (2, 1): mean 0.5 over 2 rounds; from (2, 1) to (3, 1): 1 over 1. (2 * 0.5 + 1) / 3.
    """
    assert comparison.area([(0, 0.0), (2, 1.0), (3, 1.0)]) == pytest.approx(2 / 3)


def test_every_evaluation_is_a_row() -> None:
    """If it fails, the raw numbers cannot be used to repeat the table, or validation passes for test."""
    rows = comparison.points(record(*RUNS)).to_pylist()
    assert [row["split"] for row in rows].count("validation") == 2 and len(rows) == 10
    found = next(row for row in rows if (row["contestant"], row["seed"], row["round"]) == ("b", 1, 4))
    assert (found["solved"], found["split"], found["problems"]) == (0.5, "test", 100)
    assert found["rollout_reward"] == pytest.approx(0.3)  # of round 4, the fourth of 0, 0.1, 0.2, 0.3


def test_the_folder_holds_what_the_last_lines_name(tmp_path: Path) -> None:
    """If it fails, a person follows a path to nothing."""
    whole = record(*RUNS)
    page = comparison_report.write(tmp_path, whole)
    said = comparison_report.summary(whole, str(tmp_path))
    paths = [Path(word) for line in said.splitlines() for word in line.split() if word.startswith(str(tmp_path))]
    assert len(paths) == 4 and all(path.stat().st_size > 0 for path in paths)
    assert pq.read_table(tmp_path / "curves.parquet").schema.equals(tables.CURVES)
    assert ComparisonRecord.model_validate_json((tmp_path / "comparison.json").read_text()) == whole
    assert (tmp_path / "table.md").read_text().count("\n") == 4
    assert page.startswith("<!doctype html>") and page.count("<svg") == 1 and "Learning rates" in page
    first = [line.split()[0] for line in said.splitlines() if line[:2] in ("a ", "b ")]
    assert first == ["a", "b"]


def test_the_same_comparison_gives_the_same_bytes() -> None:
    """If it fails, a figure in version control changes with every run."""
    assert comparison_report.curves(record(*RUNS)) == comparison_report.curves(record(*RUNS))
