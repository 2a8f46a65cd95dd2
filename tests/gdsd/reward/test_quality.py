"""The Great Expectations suites of rollouts and samples: what they refuse, and what they warn of."""

from collections.abc import Iterable

import pyarrow as pa
import pytest

from tasks.gdsd import tables
from tasks.gdsd.domains import DomainChoice
from tasks.gdsd.domains.sudoku import SudokuConfig
from tasks.gdsd.errors import QualityError
from tasks.gdsd.prompts.expectations import QualityReport
from tasks.gdsd.reward.quality import check_rewarded, check_samples
from tests.gdsd.prompts.conftest import failed
from tests.gdsd.series import Row, answer, rollout

GROUP = 4
CHOICE = DomainChoice(SudokuConfig(format="tagged"))
BARE = DomainChoice(SudokuConfig())  # whose grids fill a completion
COLUMNS = ["reward_cells", "reward_clues", "reward_format"]
OUTSIDE = (1.5, -0.1, float("nan"), float("inf"))


def rewarded_rows(groups: int = 6) -> list[Row]:
    verdicts = [{"reward": 1.0, "solved": True, "advantage": 1.0, "reward_cells": 1.0, "reward_format": 1.0}]
    wrong = {"reward": 0.0, "solved": False, "advantage": -1 / 3, "reward_cells": 0.0, "reward_format": 1.0}
    verdicts += [wrong] * (GROUP - 1)
    return [
        rollout(prompt_id=f"train-{group}", sample=sample, **verdict)
        for group in range(groups)
        for sample, verdict in enumerate(verdicts)
    ]


def rewarded(rows: list[Row]) -> pa.Table:
    return pa.Table.from_pylist(rows, tables.complete(tables.REWARDED, COLUMNS))


def check(table: pa.Table, choice: DomainChoice = CHOICE) -> QualityReport:
    return check_rewarded(table, GROUP, choice)


def test_good_rollouts_pass() -> None:
    """If this fails, every round is refused before it trains."""
    report = check(rewarded(rewarded_rows()))
    assert [finding.summary for finding in (*report.failures, *report.warnings)] == []
    assert report.name == "rollouts"
    report.require()


def edited(rows: list[Row], edits: dict[int, Row]) -> list[Row]:
    return [row | edits.get(index, {}) for index, row in enumerate(rows)]


def changed(rows: list[Row], numbers: Iterable[int], **values: object) -> list[Row]:
    return edited(rows, dict.fromkeys(numbers, values))


def test_bad_rollouts_are_refused() -> None:
    """If this fails, a lost shard, a doubled one or a broken reward is trained on."""
    edits: dict[int, Row] = {
        0: {"prompt_id": None},
        4: {"sample": None},
        9: {"sample": 0},
        12: {"sample": 4},
        13: {"sample": -1},
        16: {"reward": 1.5},
        17: {"reward": -0.1},
        18: {"reward": float("nan")},
        **{20 + place: {"reward_cells": value} for place, value in enumerate(OUTSIDE)},
        24: {"reward_format": 1.01},
        28: {"advantage": None},
        29: {"advantage": float("nan")},
        30: {"advantage": float("-inf")},
        31: {"completion_ids": []},
    }
    report = check(rewarded(edited(rewarded_rows(groups=8), edits)))
    found = {(finding.expectation.removeprefix("expect_"), finding.column): finding for finding in report.failures}
    assert {key: finding.unexpected for key, finding in found.items()} == {
        ("column_values_to_not_be_null", "prompt_id"): 1,
        ("column_values_to_not_be_null", "sample"): 1,
        ("compound_columns_to_be_unique", "prompt_id, sample"): 2,
        ("column_values_to_be_between", "sample"): 2,
        ("column_values_to_be_between", "reward"): 3,
        ("column_values_to_be_between", "reward_cells"): 4,
        ("column_values_to_be_between", "reward_format"): 1,
        ("column_values_to_not_be_null", "advantage"): 3,
        ("column_values_to_be_between", "completion_tokens"): 1,
    }
    assert all(finding.examples for finding in report.failures)
    rows = rewarded_rows()
    for torn in (rows[:-1], rows[1:-3], []):  # the second has 20 rows, but of two torn groups
        assert failed(check(rewarded(torn)).failures) == {("rollouts", "table_row_count_to_equal", None)}


def test_what_cannot_be_judged_is_no_defect() -> None:
    """If this fails, one verifier that timed out stops a run of hours."""
    unjudged: Row = {"reward": None, "solved": None, "advantage": None}
    report = check(rewarded(edited(rewarded_rows(), {3: unjudged, 7: unjudged | {"reward_cells": None}})))
    assert report.failures == [] and report.warnings == []
    silent = [row | unjudged | {"reward_cells": None, "reward_format": None} for row in rewarded_rows()]
    report = check(rewarded(silent))
    assert report.failures == []
    assert {finding.column for finding in report.warnings} == {"reward", "carries_signal"}


def test_the_only_judged_completion_of_a_group_needs_no_advantage() -> None:
    """If this fails, a group in which three verifiers timed out stops the run, though `leave_one_out` is right."""
    rows = changed(rewarded_rows(groups=12), (0, 1, 2, 3), advantage=None)
    rows = changed(rows, (1, 2, 3), reward=None)
    assert check(rewarded(rows)).failures == []
    (finding,) = check(rewarded(changed(rows, [1], reward=0.0))).failures
    assert finding.unexpected == 2


@pytest.mark.parametrize(
    ("rows", "values", "expected"),
    [
        (3, {"reward": None, "advantage": None}, ("column_values_to_not_be_null", "reward")),
        (24, {"advantage": 0.0}, ("column_mean_to_be_between", "carries_signal")),
        (13, {"completion": " "}, ("column_mean_to_be_between", "has_text")),
        (13, {"ended": False, "reward_format": 0.0}, ("column_mean_to_be_between", "has_room")),
    ],
)
def test_a_poor_round_is_a_warning(rows: int, values: Row, expected: tuple[str, str]) -> None:
    """If this fails, a round that teaches nothing stops the run, or passes without a word in the report."""
    report = check(rewarded(changed(rewarded_rows(), range(rows), **values)))
    assert failed(report.warnings) == {("rollouts", *expected)}
    assert report.failures == []
    report.require()
    assert "warning" in report.html()


def test_the_least_of_each_share_is_enough() -> None:
    """If this fails, warnings come a row too early: half with text and room, and one group of 20 with a spread."""
    rows = changed(rewarded_rows(groups=20), range(40), completion="", ended=False, reward_format=0.0)
    rows = changed(rows, range(4, 80), advantage=0.0)
    assert check(rewarded(rows)).warnings == []
    assert failed(check(rewarded(changed(rows, [0], advantage=None))).failures) == {
        ("rollouts", "column_values_to_not_be_null", "advantage")
    }


@pytest.mark.parametrize(
    ("weights", "reward", "sound"),
    [
        ({"cells": 2.0, "format": 0.5}, 2.5, True),
        ({"cells": 2.0, "format": 0.5}, 2.51, False),
        ({"cells": 1.0, "format": -0.5}, -0.5, True),
        ({"cells": 1.0, "format": -0.5}, -0.51, False),
    ],
)
def test_rewards_lie_in_the_range_of_the_weights(weights: dict[str, float], reward: float, sound: bool) -> None:
    """If this fails, a penalty or a larger weight is taken for a defect, or a defect for a reward."""
    choice = DomainChoice(SudokuConfig(weights=weights))
    report = check(rewarded(changed(rewarded_rows(), [2], reward=reward)), choice)
    assert failed(report.failures) == (set() if sound else {("rollouts", "column_values_to_be_between", "reward")})


def test_a_table_without_the_column_of_a_part_is_refused() -> None:
    """If this fails, rollouts that were verified by another domain are trained on."""
    report = check(rewarded(rewarded_rows()).drop_columns(["reward_cells"]))
    assert failed(report.failures) == {("rollouts", "column_values_to_be_between", "reward_cells")}
    with pytest.raises(QualityError, match=r"(?s)could not be evaluated.*Nothing was trained on these rollouts"):
        report.require()


def test_answers_that_fill_a_completion_were_not_cut_off() -> None:
    """If this fails, the default experiment is told to raise a length that its answers have by nature."""
    cut = {"ended": False, "reward_format": 0.0}
    assert check(rewarded(changed(rewarded_rows(), range(24), **cut)), BARE).warnings == []
    assert check_samples(samples_of(changed(sample_rows(), range(10), **cut)), 5, 2, BARE).warnings == []


# Samples of an evaluation


def sample_rows(problems: int = 5, samples: int = 2) -> list[Row]:
    right = {"reward": 1.0, "solved": True, "reward_cells": 1.0, "reward_format": 1.0}
    return [
        answer(prompt_id=f"test-{problem}", sample=sample, **right)
        for problem in range(problems)
        for sample in range(samples)
    ]


def samples_of(rows: list[Row]) -> pa.Table:
    return pa.Table.from_pylist(rows, tables.complete(tables.SAMPLES, COLUMNS))


def test_good_samples_pass_however_alike() -> None:
    """If this fails, an evaluation is refused because its policy solves everything, or nothing."""
    for rows in (sample_rows(), [row | {"reward": 0.0, "solved": False, "reward_cells": 0.0} for row in sample_rows()]):
        report = check_samples(samples_of(rows), 5, 2, CHOICE)
        assert report.name == "samples" and report.failures == [] and report.warnings == []


def test_bad_samples_are_refused() -> None:
    """If this fails, a lost or doubled shard of answers, or a broken verdict, decides on a promotion."""
    edits: dict[int, Row] = {
        1: {"sample": 0},
        3: {"sample": 2, "reward": 1.1},
        4: {"prompt_id": None, "reward": float("nan")},
        6: {"sample": None, "reward_format": -0.01},
        8: {"steps": 0},
    }
    report = check_samples(samples_of(edited(sample_rows(), edits)), 5, 2, CHOICE)
    assert failed(report.failures) == {
        ("samples", "compound_columns_to_be_unique", "prompt_id, sample"),
        ("samples", "column_values_to_be_between", "sample"),
        ("samples", "column_values_to_not_be_null", "prompt_id"),
        ("samples", "column_values_to_not_be_null", "sample"),
        ("samples", "column_values_to_be_between", "reward"),
        ("samples", "column_values_to_be_between", "reward_format"),
        ("samples", "column_values_to_be_between", "steps"),
    }
    for rows in (sample_rows()[:-1], sample_rows(6)[:11], []):
        report = check_samples(samples_of(rows), 5, 2, CHOICE)
        assert failed(report.failures) == {("samples", "table_row_count_to_equal", None)}
    with pytest.raises(QualityError, match="Nothing was concluded from these answers"):
        report.require()


@pytest.mark.parametrize(
    ("changes", "count", "column"),
    [
        ({"completion": " \n"}, 6, "has_text"),
        ({"ended": False, "reward_format": 0.0}, 6, "has_room"),
        ({"reward": None, "solved": None, "reward_cells": None}, 2, "reward"),
    ],
)
def test_poor_samples_are_a_warning(changes: Row, count: int, column: str) -> None:
    """If this fails, an evaluation of empty, cut or unjudged answers looks like any other."""
    report = check_samples(samples_of(changed(sample_rows(), range(count), **changes)), 5, 2, CHOICE)
    assert report.failures == [] and [finding.column for finding in report.warnings] == [column]
    assert f"samples.{column}" in report.html()
