"""From completions to rewards and advantages, and what cannot be judged."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pytest

from tasks.gdsd import tables
from tasks.gdsd.domains import Answer, Domain, DomainChoice, Verdict
from tasks.gdsd.domains.sudoku import SudokuConfig
from tasks.gdsd.errors import DataError
from tasks.gdsd.records import RolloutStats
from tasks.gdsd.reward import rewards
from tests.gdsd.scripted import Scripted, choice
from tests.gdsd.series import rollout

SOLUTION = "1234341221434321"
PUZZLE = "1.34341.2143.321"  # the empty cells hold 2, 2, 4
RIGHT, TWO, ONE, NONE = SOLUTION, "1234341221431321", "1234341121431321", "x"


SUDOKU = DomainChoice(SudokuConfig())


def table(groups: dict[str, list[str]]) -> pa.Table:
    rows = [
        rollout(prompt_id=prompt, sample=sample, problem=PUZZLE, reference=SOLUTION, completion=answer)
        for prompt, answers in groups.items()
        for sample, answer in enumerate(answers)
    ]
    return pa.Table.from_pylist(rows, tables.ROLLOUTS)


class Reader(Scripted):
    """A domain whose answers are their own rewards; `?` cannot be judged."""

    parts: ClassVar[dict[str, float]] = {"value": 1.0}

    def verify(self, problem: str, reference: str, answer: str) -> Verdict:
        value = None if answer == "?" else float(answer)
        return Verdict({"value": value}, None if value is None else value == 1.0)


class Pair(Scripted):
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


READER = choice(Reader)
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
    assert rewarded.schema.equals(tables.complete(tables.REWARDED, ["reward_cells", "reward_clues", "reward_format"]))
    assert tables.read(tables.write(rewarded, tables.REWARDED, tmp_path / "s.parquet"), tables.REWARDED).equals(
        rewarded
    )


def test_what_cannot_be_judged_is_null() -> None:
    """If it fails, an answer that could not be judged counts as wrong.

    Group a: rewards 1, -, 0, so advantages 1, -, -1. Group b has one verdict and nothing to compare it with.
    """
    rewarded = rewards.reward(table({"a": ["1", "?", "0"], "b": ["?", "0.5", "?"], "c": ["?"] * 3}), READER, 3, False)
    assert rewarded["reward"].to_pylist() == [1.0, None, 0.0, None, 0.5, None, None, None, None]
    assert rewarded["solved"].to_pylist() == [True, None, False, None, False, None, None, None, None]
    assert rewarded["advantage"].to_pylist() == [1.0, None, -1.0] + [None] * 6


def test_scaling_reaches_the_advantages_and_equal_rewards_have_none() -> None:
    """If it fails, `scale_by_std` is a dead switch, or groups without spread are trained on.

    Rewards 0, 1: advantages -1, 1 and deviation sqrt(1/2).
    """
    rollouts = table({"a": ["0", "1"], "b": [str(1 / 3)] * 2})
    for scale, size in ((False, 1.0), (True, 2**0.5)):
        found = rewards.reward(rollouts, READER, 2, scale)["advantage"].to_pylist()
        assert found == pytest.approx([-size, size, 0, 0]) and found[2:] == [0, 0]


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
    unseen = rewards.verify(table({"a": ["1 1 ?", "0 1 ?"]}), choice(Pair))
    assert rewards.part_means(unseen) == {"first": 0.5, "second": 1.0, "shown": None}


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Short, "gave 1 verdicts on 2 answers; wanted is a list with one for each, with the parts value"),
        (Vague, "gave the parts value on the answer '1' to .*; wanted is each of value, other"),
    ],
)
def test_verdicts_that_are_not_those_declared_are_refused(kind: type[Domain], said: str) -> None:
    """If it fails, answers are judged by their neighbours' verdicts, or the failure names neither domain nor parts."""
    with pytest.raises(DataError, match=f"test_rewards:{kind.__name__}.*{said}"):
        rewards.verify(table({"a": ["1", "0"]}), choice(kind))


class Filling(Reader):
    """A domain whose answers fill a completion."""

    fills_length = True


def test_what_ran_out_of_tokens_is_told_from_what_was_answered() -> None:
    """If it fails, a domain whose answers fill all tokens always warns, or one whose answers are cut off never does.

    A tagged answer needs no end token: truncated is only the one that has none and is not well formed.
    """
    tagged = DomainChoice(SudokuConfig(format="tagged"))
    rows = table({"a": [f"<reasoning></reasoning><answer>{RIGHT}</answer>", NONE, NONE, " "]}).to_pylist()
    for row, ended in zip(rows, [False, False, True, False], strict=True):
        row["ended"] = ended
    answers = pa.Table.from_pylist(rows, tables.ROLLOUTS)
    judged = rewards.verify(answers, tagged)
    assert rewards.truncated(judged, tagged) == [False, True, False, True]
    assert rewards.truncated(answers, READER) == [True, True, False, True]  # where no part judges the form
    assert rewards.empty(judged) == [False, False, False, True]
    for filling in (SUDOKU, choice(Filling)):  # whose bare grids are 16 characters, and no longer
        assert rewards.truncated(judged, filling) == [False] * 4


# Groups that are not whole: shards of whole prompts, and rows of them


@pytest.mark.parametrize(
    "groups, size, said",
    [
        ([("a", 0), ("a", 1), ("b", 0), ("b", 1)] * 2, 2, "8 rollouts of 2 prompts are not groups of 2"),
        ([("a", 0), ("b", 0), ("b", 1)], 2, "3 rollouts of 2 prompts are not groups of 2"),
        ([*(("a", sample) for sample in range(3)), *(("b", sample) for sample in range(5))], 4, "8 rollouts of 2"),
        ([("a", 0), ("a", 1), ("a", 1)], 3, "3 rollouts of 1 prompts"),
    ],
    ids=["a shard twice", "one is missing", "sizes only add up", "a completion twice"],
)
def test_groups_that_are_not_whole_are_refused(groups: list[tuple[str, int]], size: int, said: str) -> None:
    """If it fails, completions are compared with those of another prompt, or with their own copies."""
    rows = [rollout(prompt_id=prompt, sample=sample) for prompt, sample in groups]
    with pytest.raises(DataError, match=said):
        rewards.reward(pa.Table.from_pylist(rows, tables.ROLLOUTS), SUDOKU, size, False)


# Summary


def test_intervals_that_overlap_count_once() -> None:
    """If it fails, shards that work side by side make a round that waits look busy, or the other way round."""
    assert rewards.union([(5.0, 6.0), (0.0, 2.0), (1.0, 3.0), (1.5, 1.75)]) == 4.0
    assert rewards.union([]) == 0.0


def test_the_summary_by_hand() -> None:
    """If it fails, the metrics of a round are wrong.

    Rewards 1, -, 0, 0.5, 0.5, 0.5: judged 5 of 6, mean 2.5/5, variance (0.25 + 0.25)/5 = 0.1; the second of two
    groups has no spread.
    """
    rewarded = rewards.reward(table({"a": ["1", "?", "0"], "b": ["0.5"] * 3}), READER, 3, False)
    stats = rewards.summarise(rewarded, READER, 3, STATS, ["late"], 0.25)
    assert stats.judged == pytest.approx(5 / 6)
    assert stats.solved == pytest.approx(1 / 5), "what could not be judged is not wrong"
    assert stats.reward_mean == pytest.approx(0.5)
    assert stats.reward_std == pytest.approx(0.1**0.5)
    assert stats.frac_zero_std == pytest.approx(0.5)
    assert (stats.completions, stats.tokens, stats.rollout_seconds, stats.reward_seconds) == (8, 128, 2.0, 0.25)
    assert (stats.rollout_began_unix_seconds, stats.rollout_busy_seconds) == (100.5, 1.75)  # half a second together
    assert stats.warnings == ["late"]
    assert (stats.parts, stats.empty, stats.truncated) == ({"value": pytest.approx(0.5)}, 0.0, 0.0)


def test_a_round_of_which_nothing_was_judged_stops() -> None:
    """If it fails, a run whose verifier gives no verdict any more goes on, and trains on nothing."""
    with pytest.raises(
        DataError,
        match=r"could judge none of 3 rollouts, .* train on: the part value is None in 3 of them\.",
    ):
        rewards.reward(table({"a": ["?"] * 3}), READER, 3, False)
    assert rewards.reward(table({"a": ["?", "?", "1"]}), READER, 3, False)["reward"].to_pylist() == [None, None, 1.0]
