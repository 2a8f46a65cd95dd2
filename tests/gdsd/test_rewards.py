"""From completions to rewards and advantages, and what cannot be judged."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from tasks.gdsd import rewards, tables
from tasks.gdsd.config import PromptConfig
from tasks.gdsd.domains import DOMAINS, Verdict
from tasks.gdsd.errors import DataError
from tasks.gdsd.records import RolloutStats

SOLUTION = "1234341221434321"
PUZZLE = "1.34341.2143.321"  # the empty cells hold 2, 2, 4
RIGHT, TWO, ONE, NONE = SOLUTION, "1234341221431321", "1234341121431321", "x"


def table(groups: dict[str, list[str]]) -> pa.Table:
    rows = [
        {
            "prompt_id": prompt,
            "sample": sample,
            "problem": PUZZLE,
            "reference": SOLUTION,
            "prompt_ids": [1, 2],
            "completion_ids": [3, 4],
            "unmasked_at": [1, 0],
            "completion": answer,
        }
        for prompt, answers in groups.items()
        for sample, answer in enumerate(answers)
    ]
    return pa.Table.from_pylist(rows, tables.ROLLOUTS)


class Reader:
    """A domain whose answers are their own rewards; `?` cannot be judged."""

    def problems(self, config: PromptConfig) -> Iterator[tuple[str, str]]:
        return iter([])

    def phrase(self, problem: str) -> str:
        return problem

    def fault(self, problem: str, reference: str) -> str | None:
        return None

    def verify(self, problem: str, reference: str, answer: str) -> Verdict:
        return Verdict(None, None) if answer == "?" else Verdict(float(answer), float(answer) == 1.0)


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(DOMAINS, "reader", Reader())
    return "reader"


STATS = [
    RolloutStats(completions=5, tokens=80, seconds=1.5),
    RolloutStats(completions=3, tokens=48, seconds=0.5),
]


def test_rewards_and_advantages_by_hand() -> None:
    """If it fails, the policy is trained on other rewards than the verifier gave.

    Rewards of group a: 1, 2/3, 1/3, 0; the others' means are 1/3, 4/9, 5/9, 2/3. Group b is right throughout.
    """
    scored = rewards.score(table({"a": [RIGHT, TWO, ONE, NONE], "b": [RIGHT] * 4}), "sudoku", 4, False)
    assert scored["reward"].to_pylist() == pytest.approx([1, 2 / 3, 1 / 3, 0, 1, 1, 1, 1])
    assert scored["solved"].to_pylist() == [True, False, False, False, True, True, True, True]
    assert scored["advantage"].to_pylist() == pytest.approx([2 / 3, 2 / 9, -2 / 9, -2 / 3, 0, 0, 0, 0], abs=1e-6)


def test_the_table_has_the_declared_schema(tmp_path: Path) -> None:
    """If it fails, the next stage cannot read the scored table."""
    scored = rewards.score(table({"a": [RIGHT, NONE]}), "sudoku", 2, False)
    assert scored.schema.equals(tables.SCORED)
    assert tables.read(tables.write(scored, tables.SCORED, tmp_path / "s.parquet"), tables.SCORED).equals(scored)


def test_scaling_reaches_the_advantages(reader: str) -> None:
    """If it fails, `scale_by_std` is a dead switch. Rewards 0, 1: advantages -1, 1 and deviation sqrt(1/2)."""
    rollouts = table({"a": ["0", "1"]})
    assert rewards.score(rollouts, reader, 2, False)["advantage"].to_pylist() == pytest.approx([-1, 1])
    assert rewards.score(rollouts, reader, 2, True)["advantage"].to_pylist() == pytest.approx([-(2**0.5), 2**0.5])


def test_what_cannot_be_judged_is_null(reader: str) -> None:
    """If it fails, an answer that could not be judged counts as wrong.

    Group a: rewards 1, -, 0, so advantages 1, -, -1. Group b has one verdict and nothing to compare it with.
    """
    scored = rewards.score(table({"a": ["1", "?", "0"], "b": ["?", "0.5", "?"], "c": ["?"] * 3}), reader, 3, False)
    assert scored["reward"].to_pylist() == [1.0, None, 0.0, None, 0.5, None, None, None, None]
    assert scored["solved"].to_pylist() == [True, None, False, None, False, None, None, None, None]
    assert scored["advantage"].to_pylist() == [1.0, None, -1.0] + [None] * 6


@pytest.mark.parametrize("scale", [False, True])
def test_equal_rewards_have_no_advantage(reader: str, scale: bool) -> None:
    """If it fails, groups without spread are trained on, and are not counted as what they are."""
    rollouts = table({"a": [str(1 / 3)] * 7, "b": ["0.7"] * 7})
    assert rewards.score(rollouts, reader, 7, scale)["advantage"].to_pylist() == [0.0] * 14


# Groups that are not whole: shards of whole prompts, and rows of them


def test_a_shard_that_came_twice_is_refused() -> None:
    """If it fails, completions are compared with those of another prompt, or with their own copies."""
    one = table({"a": [RIGHT, NONE], "b": [NONE, NONE]})
    with pytest.raises(DataError, match="8 rollouts of 2 prompts are not groups of 2"):
        rewards.score(pa.concat_tables([one, one]), "sudoku", 2, False)


def test_a_group_that_lacks_a_completion_is_refused() -> None:
    """If it fails, every later group is compared with completions of its neighbour."""
    with pytest.raises(DataError, match="3 rollouts of 2 prompts are not groups of 2"):
        rewards.score(table({"a": [RIGHT], "b": [RIGHT, NONE]}), "sudoku", 2, False)


def test_groups_whose_sizes_only_add_up_are_refused() -> None:
    """If it fails, 3 + 5 completions pass as two groups of 4, and one prompt's answers judge another's."""
    with pytest.raises(DataError):
        rewards.score(table({"a": [RIGHT] * 3, "b": [NONE] * 5}), "sudoku", 4, False)


def test_a_completion_that_came_twice_is_refused() -> None:
    """If it fails, one completion stands for two, and the one it replaces is lost."""
    rows = table({"a": [RIGHT, NONE, TWO]}).to_pylist()
    rows[2] = rows[1]
    with pytest.raises(DataError):
        rewards.score(pa.Table.from_pylist(rows, tables.ROLLOUTS), "sudoku", 3, False)


# Summary


def test_the_summary_by_hand(reader: str) -> None:
    """If it fails, the metrics of a round are wrong.

    Rewards 1, -, 0, 0.5, 0.5, 0.5: judged 5 of 6, mean 2.5/5, variance (0.25 + 0.25)/5 = 0.1; the second of two
    groups has no spread.
    """
    scored = rewards.score(table({"a": ["1", "?", "0"], "b": ["0.5"] * 3}), reader, 3, False)
    stats = rewards.summarise(scored, 3, STATS, ["late"], 0.25)
    assert stats.judged == pytest.approx(5 / 6)
    assert stats.reward_mean == pytest.approx(0.5)
    assert stats.reward_std == pytest.approx(0.1**0.5)
    assert stats.frac_zero_std == pytest.approx(0.5)
    assert (stats.completions, stats.tokens, stats.rollout_seconds, stats.reward_seconds) == (8, 128, 2.0, 0.25)
    assert stats.warnings == ["late"]


def test_the_summary_of_nothing_judged(reader: str) -> None:
    """If it fails, a round without a single verdict stops the run instead of being reported."""
    stats = rewards.summarise(rewards.score(table({"a": ["?"] * 3}), reader, 3, False), 3, STATS, [], 0.0)
    assert (stats.judged, stats.solved, stats.frac_zero_std) == (0.0, 0.0, 1.0)
    assert stats.model_validate_json(stats.model_dump_json()) == stats


def test_the_share_solved_counts_judged_completions(reader: str) -> None:
    """If it fails, an answer that could not be judged lowers the share solved, as if it were wrong.

    One of two judged answers is right; an evaluation of the same four answers reports 1/2 as well.
    """
    scored = rewards.score(table({"a": ["1", "0", "?", "?"]}), reader, 4, False)
    assert rewards.summarise(scored, 4, STATS, [], 0.0).solved == pytest.approx(0.5)
