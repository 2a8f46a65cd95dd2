"""From completions to rewards and advantages, and what cannot be judged."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pytest

from tasks.gdsd import tables
from tasks.gdsd.domains import Answer, Domain, DomainChoice, Problem, Verdict
from tasks.gdsd.domains.sudoku import SudokuConfig
from tasks.gdsd.errors import DataError
from tasks.gdsd.records import RolloutStats
from tasks.gdsd.reward import rewards

SOLUTION = "1234341221434321"
PUZZLE = "1.34341.2143.321"  # the empty cells hold 2, 2, 4
RIGHT, TWO, ONE, NONE = SOLUTION, "1234341221431321", "1234341121431321", "x"


SUDOKU = DomainChoice(SudokuConfig())


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
            "ended": True,
            "engine": "exact",
        }
        for prompt, answers in groups.items()
        for sample, answer in enumerate(answers)
    ]
    return pa.Table.from_pylist(rows, tables.ROLLOUTS)


class Reader(Domain):
    """A domain whose answers are their own rewards; `?` cannot be judged."""

    parts: ClassVar[dict[str, float]] = {"value": 1.0}
    columns = ()
    example = Answer("1", "1", "1")

    def read(self, row: Mapping[str, object]) -> Problem:
        raise NotImplementedError

    def phrase(self, problem: str) -> str:
        return problem

    def fault(self, problem: str, reference: str) -> str | None:
        return None

    def verify(self, problem: str, reference: str, answer: str) -> Verdict:
        if answer == "?":
            return Verdict({"value": None}, None)
        return Verdict({"value": float(answer)}, float(answer) == 1.0)


class Pair(Reader):
    """Answers of two words, the values of two parts; `?` is a part that cannot be judged."""

    parts: ClassVar[dict[str, float]] = {"first": 1.0, "second": 0.5, "shown": 0.0}

    def verify(self, problem: str, reference: str, answer: str) -> Verdict:
        first, second, shown = (None if word == "?" else float(word) for word in answer.split())
        return Verdict({"first": first, "second": second, "shown": shown}, first == 1.0)


class Short(Reader):
    """A verifier that loses an answer."""

    def verify_all(self, items: Sequence[Answer]) -> list[Verdict]:
        return super().verify_all(items)[1:]


class Vague(Reader):
    """A verifier that forgets a part that it declares."""

    parts: ClassVar[dict[str, float]] = {"value": 1.0, "other": 0.0}


def choice(kind: type[Domain], **weights: float) -> DomainChoice:
    return DomainChoice.model_validate(
        {"name": "custom", "path": f"{kind.__module__}:{kind.__name__}", "weights": weights}
    )


@pytest.fixture
def reader() -> DomainChoice:
    return choice(Reader)


STATS = [
    RolloutStats(completions=5, tokens=80, positions=400, seconds=1.5, ended_unix_seconds=102.0),
    RolloutStats(completions=3, tokens=48, positions=240, seconds=0.5, ended_unix_seconds=102.25),
]


def test_rewards_and_advantages_by_hand() -> None:
    """If it fails, the policy is trained on other rewards than the verifier gave.

    Rewards of group a: 1, 2/3, 1/3, 0; the others' means are 1/3, 4/9, 5/9, 2/3. Group b is right throughout.
    """
    rewarded = rewards.reward(table({"a": [RIGHT, TWO, ONE, NONE], "b": [RIGHT] * 4}), SUDOKU, 4, False)
    assert rewarded["reward"].to_pylist() == pytest.approx([1, 2 / 3, 1 / 3, 0, 1, 1, 1, 1])
    assert rewarded["solved"].to_pylist() == [True, False, False, False, True, True, True, True]
    assert rewarded["advantage"].to_pylist() == pytest.approx([2 / 3, 2 / 9, -2 / 9, -2 / 3, 0, 0, 0, 0], abs=1e-6)


def test_the_table_has_the_declared_schema(tmp_path: Path) -> None:
    """If it fails, the next stage cannot read the rewarded table."""
    rewarded = rewards.reward(table({"a": [RIGHT, NONE]}), SUDOKU, 2, False)
    assert rewarded.schema.equals(tables.complete(tables.REWARDED, ["reward_cells", "reward_format"]))
    assert tables.read(tables.write(rewarded, tables.REWARDED, tmp_path / "s.parquet"), tables.REWARDED).equals(
        rewarded
    )


def test_scaling_reaches_the_advantages(reader: DomainChoice) -> None:
    """If it fails, `scale_by_std` is a dead switch. Rewards 0, 1: advantages -1, 1 and deviation sqrt(1/2)."""
    rollouts = table({"a": ["0", "1"]})
    assert rewards.reward(rollouts, reader, 2, False)["advantage"].to_pylist() == pytest.approx([-1, 1])
    assert rewards.reward(rollouts, reader, 2, True)["advantage"].to_pylist() == pytest.approx([-(2**0.5), 2**0.5])


def test_what_cannot_be_judged_is_null(reader: DomainChoice) -> None:
    """If it fails, an answer that could not be judged counts as wrong.

    Group a: rewards 1, -, 0, so advantages 1, -, -1. Group b has one verdict and nothing to compare it with.
    """
    rewarded = rewards.reward(table({"a": ["1", "?", "0"], "b": ["?", "0.5", "?"], "c": ["?"] * 3}), reader, 3, False)
    assert rewarded["reward"].to_pylist() == [1.0, None, 0.0, None, 0.5, None, None, None, None]
    assert rewarded["solved"].to_pylist() == [True, None, False, None, False, None, None, None, None]
    assert rewarded["advantage"].to_pylist() == [1.0, None, -1.0] + [None] * 6


@pytest.mark.parametrize("scale", [False, True])
def test_equal_rewards_have_no_advantage(reader: DomainChoice, scale: bool) -> None:
    """If it fails, groups without spread are trained on, and are not counted as what they are."""
    rollouts = table({"a": [str(1 / 3)] * 7, "b": ["0.7"] * 7})
    assert rewards.reward(rollouts, reader, 7, scale)["advantage"].to_pylist() == [0.0] * 14


# Parts of the reward


def test_the_reward_is_the_weighted_sum_of_its_parts() -> None:
    """If it fails, the weights of the config are not what is trained on. 0.5 * 0.25 + 2 * 1 = 2.125, and by default
    0.25 + 0.5 * 1 = 0.75; every part has its column, also one without weight."""
    answers = table({"a": ["0.25 1 0.75", "1 0 0"]})
    rewarded = rewards.verify(answers, choice(Pair, first=0.5, second=2.0))
    assert rewarded["reward"].to_pylist() == [2.125, 0.5]
    assert rewards.verify(answers, choice(Pair))["reward"].to_pylist() == [0.75, 1.0]
    columns = {name: rewarded[f"reward_{name}"].to_pylist() for name in ("first", "second", "shown")}
    assert columns == {"first": [0.25, 1.0], "second": [1.0, 0.0], "shown": [0.75, 0.0]}


def test_an_unjudged_part_takes_the_reward_with_it_if_it_has_weight() -> None:
    """If it fails, a part that could not judge counts as zero, or one without weight makes answers worthless.

    Group of three: rewards 1 + 0.5, -, 0, so advantages 1.5, -, -1.5: the second leaves the baseline.
    """
    rollouts = table({"a": ["1 1 ?", "1 ? 1", "0 0 1"]})
    rewarded = rewards.reward(rollouts, choice(Pair), 3, False)
    assert rewarded["reward"].to_pylist() == [1.5, None, 0.0]
    assert rewarded["advantage"].to_pylist() == [1.5, None, -1.5]
    assert rewarded["reward_second"].to_pylist() == [1.0, None, 0.0]
    assert rewarded["reward_shown"].to_pylist() == [None, 1.0, 1.0]
    without = rewards.reward(rollouts, choice(Pair, first=1.0), 3, False)
    assert without["reward"].to_pylist() == [1.0, 1.0, 0.0]
    assert rewards.part_means(rewarded) == pytest.approx({"first": 2 / 3, "second": 0.5, "shown": 1.0})


def test_a_part_that_was_never_judged_has_no_mean() -> None:
    """If it fails, a part whose judge was out of order is reported as 0."""
    rewarded = rewards.verify(table({"a": ["1 1 ?", "0 1 ?"]}), choice(Pair))
    assert rewards.part_means(rewarded) == {"first": 0.5, "second": 1.0, "shown": None}


@pytest.mark.parametrize("kind", [Short, Vague])
def test_verdicts_that_are_not_those_declared_are_refused(kind: type[Domain]) -> None:
    """If it fails, answers are judged by their neighbours' verdicts, or the failure names neither domain nor parts."""
    with pytest.raises(DataError, match=f"test_rewards:{kind.__name__}.*verdicts on 2 answers.*parts value"):
        rewards.verify(table({"a": ["1", "0"]}), choice(kind))


def test_what_ran_out_of_tokens_is_told_from_what_was_answered() -> None:
    """If it fails, a domain whose answers fill all tokens always warns, or one whose answers are cut off never does.

    Sudoku's grids need no end token: truncated is only the one that has none and is no grid.
    """
    rows = table({"a": [RIGHT, NONE, NONE, " "]}).to_pylist()
    for row, ended in zip(rows, [False, False, True, False], strict=True):
        row["ended"] = ended
    answers = pa.Table.from_pylist(rows, tables.ROLLOUTS)
    judged = rewards.verify(answers, SUDOKU)
    assert rewards.truncated(judged) == [False, True, False, True]
    assert rewards.truncated(answers) == [True, True, False, True]  # where no part judges the form
    assert rewards.empty(judged) == [False, False, False, True]


# Groups that are not whole: shards of whole prompts, and rows of them


def test_a_shard_that_came_twice_is_refused() -> None:
    """If it fails, completions are compared with those of another prompt, or with their own copies."""
    one = table({"a": [RIGHT, NONE], "b": [NONE, NONE]})
    with pytest.raises(DataError, match="8 rollouts of 2 prompts are not groups of 2"):
        rewards.reward(pa.concat_tables([one, one]), SUDOKU, 2, False)


def test_a_group_that_lacks_a_completion_is_refused() -> None:
    """If it fails, every later group is compared with completions of its neighbour."""
    with pytest.raises(DataError, match="3 rollouts of 2 prompts are not groups of 2"):
        rewards.reward(table({"a": [RIGHT], "b": [RIGHT, NONE]}), SUDOKU, 2, False)


def test_groups_whose_sizes_only_add_up_are_refused() -> None:
    """If it fails, 3 + 5 completions pass as two groups of 4, and one prompt's answers judge another's."""
    with pytest.raises(DataError):
        rewards.reward(table({"a": [RIGHT] * 3, "b": [NONE] * 5}), SUDOKU, 4, False)


def test_a_completion_that_came_twice_is_refused() -> None:
    """If it fails, one completion stands for two, and the one it replaces is lost."""
    rows = table({"a": [RIGHT, NONE, TWO]}).to_pylist()
    rows[2] = rows[1]
    with pytest.raises(DataError):
        rewards.reward(pa.Table.from_pylist(rows, tables.ROLLOUTS), SUDOKU, 3, False)


# Summary


def test_intervals_that_overlap_count_once() -> None:
    """If it fails, shards that work side by side make a round that waits look busy, or the other way round."""
    assert rewards.union([(5.0, 6.0), (0.0, 2.0), (1.0, 3.0), (1.5, 1.75)]) == 4.0
    assert rewards.union([]) == 0.0


def test_the_summary_by_hand(reader: DomainChoice) -> None:
    """If it fails, the metrics of a round are wrong.

    Rewards 1, -, 0, 0.5, 0.5, 0.5: judged 5 of 6, mean 2.5/5, variance (0.25 + 0.25)/5 = 0.1; the second of two
    groups has no spread.
    """
    rewarded = rewards.reward(table({"a": ["1", "?", "0"], "b": ["0.5"] * 3}), reader, 3, False)
    stats = rewards.summarise(rewarded, 3, STATS, ["late"], 0.25)
    assert stats.judged == pytest.approx(5 / 6)
    assert stats.reward_mean == pytest.approx(0.5)
    assert stats.reward_std == pytest.approx(0.1**0.5)
    assert stats.frac_zero_std == pytest.approx(0.5)
    assert (stats.completions, stats.tokens, stats.rollout_seconds, stats.reward_seconds) == (8, 128, 2.0, 0.25)
    assert (stats.rollout_began_unix_seconds, stats.rollout_busy_seconds) == (100.5, 1.75)  # half a second together
    assert stats.warnings == ["late"]
    assert (stats.parts, stats.empty, stats.truncated) == ({"value": pytest.approx(0.5)}, 0.0, 0.0)


def test_the_summary_of_nothing_judged(reader: DomainChoice) -> None:
    """If it fails, a round without a single verdict stops the run instead of being reported."""
    stats = rewards.summarise(rewards.reward(table({"a": ["?"] * 3}), reader, 3, False), 3, STATS, [], 0.0)
    assert (stats.judged, stats.solved, stats.frac_zero_std) == (0.0, 0.0, 1.0)
    assert stats.model_validate_json(stats.model_dump_json()) == stats


def test_the_share_solved_counts_judged_completions(reader: DomainChoice) -> None:
    """If it fails, an answer that could not be judged lowers the share solved, as if it were wrong.

    One of two judged answers is right; an evaluation of the same four answers reports 1/2 as well.
    """
    rewarded = rewards.reward(table({"a": ["1", "0", "?", "?"]}), reader, 4, False)
    assert rewards.summarise(rewarded, 4, STATS, [], 0.0).solved == pytest.approx(0.5)
