"""Prompt tables: their splits, generated or set aside, near-duplicates, checks, and dealing them out to rounds."""

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from tasks.gdsd import tables
from tasks.gdsd.config.evaluate import GuardConfig
from tasks.gdsd.config.prompts import PromptConfig, TestConfig
from tasks.gdsd.domains import DomainChoice
from tasks.gdsd.domains.countdown import CountdownConfig, canonical
from tasks.gdsd.domains.sudoku import SudokuConfig
from tasks.gdsd.errors import DataError, GdsdError, QualityError
from tasks.gdsd.prompts.problems import (
    check_problems,
    check_supply,
    leave_out_near_duplicates,
    leave_out_trained_on,
    make_prompts,
    make_test,
    round_rows,
    said_sizes,
)
from tasks.gdsd.prompts.quality import check_prompts, check_test
from tests.gdsd.prompts.conftest import SUDOKU, configured, generated, split_files, sums, write
from tests.gdsd.series import Row

COUNTDOWN = DomainChoice(CountdownConfig())
EACH_GENERATOR = pytest.mark.parametrize("domain", [SUDOKU, COUNTDOWN], ids=lambda domain: domain.name)


def problems(table: pa.Table) -> list[str]:
    return table["problem"].to_pylist()


def sizes(made: dict[str, pa.Table]) -> list[int]:
    return [made[split].num_rows for split in tables.SPLITS]


# Generated problems


@EACH_GENERATOR
def test_generated_splits_share_nothing_and_have_the_declared_schema(domain: DomainChoice) -> None:
    """If it fails, the reported gain is measured on problems that were trained on, or a run has too few of them."""
    made = generated(domain, train_size=400, validation_size=100, test_size=100)
    assert sizes(made) == [400, 100, 100]
    for name in ("problem", "prompt", "id"):
        assert len({value for table in made.values() for value in table[name].to_pylist()}) == 600
    if domain == COUNTDOWN:
        assert len({canonical(text) for table in made.values() for text in problems(table)}) == 600
    for table in made.values():
        assert table.schema.equals(tables.PROMPTS)
        assert all(row["problem"] in row["prompt"] for row in table.to_pylist())
    check_problems(PromptConfig(domain=domain), made)


@EACH_GENERATOR
def test_the_seed_decides_and_the_test_set_stays_as_it_was(domain: DomainChoice) -> None:
    """If it fails, runs with other training sets or of other nights, evaluations and guards cannot be compared."""
    small, large = generated(domain), generated(domain, train_size=60, validation_size=9)
    assert generated(domain) == small and generated(domain, seed=1)["test"] != small["test"]
    for config in (TestConfig(domain=domain, test_size=11), GuardConfig(domain=domain, test_size=11)):
        assert small["test"] == large["test"] == make_test(config)
    assert large["validation"].slice(0, 7) == small["validation"]
    nights = [generated(domain, train_seed=seed) for seed in (1, 2)]
    assert all(made["test"] == small["test"] for made in nights)
    for split in ("train", "validation"):
        first, second = (set(problems(made[split])) for made in nights)
        assert len(first) == nights[0][split].num_rows and not first & second


def test_fresh_problems_are_none_of_the_tests() -> None:
    """If it fails, a policy that is trained anew every night has seen the problems that it is judged on.

    There are few problems of two numbers up to 9, so that another seed draws most of the test's again.
    """
    few = DomainChoice(CountdownConfig(min_numbers=2, max_numbers=2, min_number=1, max_number=9))
    for seed in range(5):
        made = generated(few, train_seed=seed, train_size=20, validation_size=5, test_size=15)
        assert sizes(made) == [20, 5, 15]
        held_out = {canonical(text) for text in problems(made["test"])}
        assert not held_out & {canonical(text) for split in ("train", "validation") for text in problems(made[split])}
        assert len({canonical(text) for table in made.values() for text in problems(table)}) == 40


def test_more_puzzles_than_there_are_is_refused() -> None:
    """If it fails, a run hangs in its first stage without a word: it looks for a puzzle that does not exist.

    With one empty cell there are 288 * 16 = 4,608 puzzles, each with one solution; 5,000 are asked for.
    """
    with pytest.raises(GdsdError):
        generated(DomainChoice(SudokuConfig(min_empty=1, max_empty=1)), train_size=4000, validation_size=1000)


# Validation set aside from a source, and caps


def test_validation_is_set_aside_from_the_training_source(tmp_path: Path) -> None:
    """If it fails, the best round is chosen on problems that were trained on, or other ones in every run."""
    fields = {**split_files(tmp_path, train=sums(50), test=sums(9, 90)), "validation_size": 8}
    made = make_prompts(configured(**fields))
    assert sizes(made) == [42, 8, 9]
    assert {*problems(made["train"]), *problems(made["validation"])} == {row["question"] for row in sums(50)}
    assert make_prompts(configured(**fields)) == made
    for seed in ({"seed": 1}, {"train_seed": 1}):
        other = make_prompts(configured(**fields, **seed))
        assert set(problems(other["validation"])) != set(problems(made["validation"]))
        assert other["test"] == made["test"]
    own = make_prompts(configured(**fields, validation_data=write(sums(9, 70), tmp_path / "own.jsonl")))
    assert problems(own["train"]) == [row["question"] for row in sums(50)] and own["validation"].num_rows == 8
    assert set(problems(own["validation"])) < {row["question"] for row in sums(9, 70)}
    nights = [make_prompts(configured(**fields, train_seed=seed, train_size=20)) for seed in (1, 2)]
    assert set(problems(nights[0]["train"])) != set(problems(nights[1]["train"]))


def test_caps_take_some_of_a_source_and_each_split_for_itself(tmp_path: Path) -> None:
    """If it fails, a run with fewer training problems is validated or tested on others."""
    fields = {**split_files(tmp_path, train=sums(40), test=sums(40, 60)), "validation_size": 10, "test_size": 20}
    large, small = make_prompts(configured(**fields)), make_prompts(configured(**fields, train_size=5))
    assert small["train"].num_rows == 5 and set(problems(small["train"])) < set(problems(large["train"]))
    assert small["test"].num_rows == 20 and problems(small["test"]) != problems(small["test"])[::-1]
    assert small["test"] == large["test"] and small["validation"] == large["validation"]
    assert small["test"]["id"].to_pylist() == sorted(small["test"]["id"].to_pylist()), "in the source's order"
    assert make_test(configured(test_data=fields["test_data"], test_size=20)) == small["test"]


def test_a_validation_that_takes_every_problem_is_refused_in_words(tmp_path: Path) -> None:
    """If it fails, a person with few problems is told that a table has no rows, and not what to change."""
    fields = split_files(tmp_path, train=sums(5), test=sums(5, 20))
    with pytest.raises(DataError, match=r"5 problems that can be used, and prompts.validation_size sets 256 aside"):
        make_prompts(configured(**fields))
    assert sizes(make_prompts(configured(**fields, validation_size=4))) == [1, 4, 5]


# Near-duplicates


def reworded(row: Row, count: int = 1) -> Row:
    """Changes the last words of a problem: two of 8 to 20 runs of five words each."""
    words = str(row["question"]).split()
    return row | {"question": " ".join([*words[:-count], *("new" for _ in range(count))])}


def test_near_duplicates_are_refused_or_left_out_of_all_but_the_test(tmp_path: Path) -> None:
    """If it fails, the gain is measured on problems that were trained on with one word changed, the test set shrinks
    with the training data, or the report hides what was left out. Validation gives way to the test, training to both.
    """
    train, test, validation = sums(20), sums(5, 40), sums(3, 30)
    train[0], train[1], train[7] = test[0], reworded(test[2]), reworded(validation[1])
    validation[2] = reworded(test[4])
    files = split_files(tmp_path, train=train, validation=validation, test=test)
    config = configured(**files, similarity=0.7)  # 12 words have 10 runs of three; one differs, and 9 / 11 are shared
    made = make_prompts(config)
    assert leave_out_near_duplicates(made, config) == (made, [])
    with pytest.raises(QualityError) as caught:
        check_prompts(made, config).require()
    message = str(caught.value)
    said = "test.problem: 2 of 5 rows are nearly a problem of another split: 'test-000002': is nearly 'train-000001' of"
    assert said in message and " new'" in message
    assert "prompts.near_duplicates: drop" in message
    dropping = config.model_copy(update={"near_duplicates": "drop"})
    kept, left_out = leave_out_near_duplicates(made, dropping)
    assert left_out == [
        "validation problem 'validation-000002' is nearly 'test-000004'",
        "train problem 'train-000000' is nearly 'test-000000'",
        "train problem 'train-000001' is nearly 'test-000002'",
        "train problem 'train-000007' is nearly 'validation-000001'",
    ]
    assert problems(kept["train"]) == [row["question"] for place, row in enumerate(train) if place not in (0, 1, 7)]
    assert kept["test"] == made["test"] and kept["validation"] == made["validation"].slice(0, 2)
    check_prompts(kept, dropping).require()


def test_dropping_also_clears_the_validation_that_was_set_aside(tmp_path: Path) -> None:
    """If it fails, a training source with copies of test problems cannot be used at all: the copies that were set
    aside for validation are refused, whatever the configuration says."""
    test = sums(5, 40)
    train = sums(20) + [reworded(row) for row in test]
    files = split_files(tmp_path, train=train, test=test)
    config = configured(**files, validation_size=12, similarity=0.7, near_duplicates="drop")
    made = make_prompts(config)
    assert any(" new" in text for text in problems(made["validation"]))
    kept, left_out = leave_out_near_duplicates(made, config)
    assert len(left_out) == 5 and kept["train"].num_rows + kept["validation"].num_rows == 20
    check_prompts(kept, config).require()


@pytest.mark.parametrize("count", [3, 40])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", ""),
        ("Solve the following problem step by step: ", ""),
        ("", "\nPut your final answer in a box, and nothing else behind it."),
        ("You are a careful tutor who explains every step of it. Problem: ", " Answer with one number."),
    ],
)
def test_an_instruction_makes_no_near_duplicates_and_hides_none(
    before: str, after: str, count: int, tmp_path: Path
) -> None:
    """If it fails, problems of few words are all refused as copies of each other, or a copied one passes unseen."""
    signs = "+-*/"
    texts = [f"What is {number % 7 + 2} {signs[number % 4]} {number + 3}?" for number in range(3 * count)]
    if before and count == 3:  # of so few problems it cannot be known; they differ in more than a number
        texts = [text for text, _ in zip(texts, range(9), strict=True)]
    train, validation, test = (
        [{"question": f"{before}{text}{after}", "answer": "#### 1"} for text in texts[start::3]] for start in range(3)
    )
    train[1] = validation[1] | {"question": validation[1]["question"].upper()}
    files = split_files(tmp_path, train=train, validation=validation, test=test)
    config = configured(**files, near_duplicates="drop")
    kept, left_out = leave_out_near_duplicates(make_prompts(config), config)
    assert left_out == ["train problem 'train-000001' is nearly 'validation-000001'"]
    check_prompts(kept, config).require()


# Checks by the domain


def test_faults_are_counted_and_located() -> None:
    """If it fails, the user of a file with bad puzzles does not learn which ones are bad."""
    rows = generated()["train"].to_pylist()
    for index in (2, 3, 5, 8, 13, 21):
        rows[index]["reference"] = "wrong"
    rows[8]["problem"] = "not a puzzle"
    with pytest.raises(DataError) as caught:
        check_problems(PromptConfig(domain=SUDOKU), {"validation": pa.Table.from_pylist(rows, tables.PROMPTS)})
    message = str(caught.value)
    assert "6 of 30 validation problems are not valid sudoku" in message
    assert "'train-000002': " in message and "'not a puzzle' is not 16 characters" in message
    assert "train-000021" not in message, "only the first five are listed"


# Problems of a round


@pytest.mark.parametrize("rows, per_round", [(12, 4), (10, 4), (7, 7), (5, 1)])
def test_rounds_go_through_the_problems_in_passes(rows: int, per_round: int) -> None:
    """If it fails, some problems are trained on far more than others, twice in a round, or in the same order always."""
    rounds_per_pass = rows // per_round
    used: Counter[int] = Counter()
    for number in range(4):
        indices = range(number * rounds_per_pass, (number + 1) * rounds_per_pass)
        chosen = [row for index in indices for row in round_rows(rows, per_round, index, 3)]
        assert len(chosen) == len(set(chosen)) == rounds_per_pass * per_round
        assert set(chosen) <= set(range(rows))
        used.update(chosen)
    if rows % per_round == 0:
        assert set(used.values()) == {4}, "a pass covers every problem once"
    else:
        assert len(used) == rows, "what one pass leaves out, another one takes"
    with pytest.raises(DataError, match=f"wants {rows + 1} different problems, but there are {rows}"):
        round_rows(rows, rows + 1, 0, 0)
    assert round_rows(100, 10, 3, 0) == round_rows(100, 10, 3, 0)
    assert round_rows(100, 10, 3, 0) not in (round_rows(100, 10, 3, 1), round_rows(100, 10, 13, 0))


# Rows that cannot be judged


def test_unusable_rows_stop_a_run_or_are_left_out(tmp_path: Path) -> None:
    """If it fails, one row of a published data set that cannot be judged keeps all of it from being used."""
    rows = sums(5)
    rows[2] = rows[2] | {"answer": "it has no number"}
    source = write(rows, tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="1 of 5 rows of the test source cannot be read"):
        make_test(configured(test_data=source))
    unusable: list[str] = []
    kept = make_test(configured(test_data=source, unusable="drop"), unusable)
    assert kept.num_rows == 4 and len(unusable) == 1 and "row 2" in unusable[0]


def test_unusable_problems_stop_a_run_or_are_left_out(tmp_path: Path) -> None:
    """If it fails, a problem that the domain refuses is asked all the same, or keeps the others from being used."""
    rows = generated()["train"].to_pylist()[:4]
    rows[1]["reference"] = "1" * 16
    config = {"domain": SUDOKU.model_dump(), "test_data": write(rows, tmp_path / "a.jsonl")}
    with pytest.raises(DataError, match="1 of 4 test problems are not valid sudoku"):
        check_problems(configured(**config), {"test": make_test(configured(**config))})
    unusable: list[str] = []
    assert make_test(configured(**config, unusable="drop"), unusable).num_rows == 3
    assert len(unusable) == 1 and "test row 1" in unusable[0]


def test_problems_that_were_trained_on_are_found() -> None:
    """If it fails, a guard measures the very problems that the policy is trained on, or none of them can be used."""
    made = generated()
    trained_on = {row["id"]: row["problem"] for row in made["train"].to_pylist()}
    assert check_test(made["test"], PromptConfig(), trained_on, 0.7).failures == []
    (failure,) = check_test(made["train"], PromptConfig(), trained_on, 0.7).failures
    assert failure.column == "problem_nearly_trained_on" and failure.unexpected == 30
    both = pa.concat_tables([made["train"].slice(0, 2), made["test"]])
    kept, left_out = leave_out_trained_on(both, SUDOKU, trained_on, 0.7)
    assert kept == made["test"] and left_out[1] == "test problem 'train-000001' is nearly 'train-000001' of train"
    check_test(kept, PromptConfig(), trained_on, 0.7).require()


# Equal problems of a source


def test_a_problem_is_named_by_its_row_of_the_file(tmp_path: Path) -> None:
    """If it fails, the row that is named is that of a table nobody has: problems were set aside for validation."""
    train, test = sums(60), sums(2, 80)
    config = configured(**split_files(tmp_path, train=train, test=test), validation_size=40)
    late = int(str(make_prompts(config)["train"]["id"].to_pylist()[-1]).removeprefix("train-"))
    assert late >= 20, "it is not the row of the table"
    train[late] = test[1]
    config = configured(**split_files(tmp_path, train=train, test=test), validation_size=40)
    with pytest.raises(
        QualityError,
        match=rf"test\.problem: 1 of 2 rows has the problem .* 'test-000001': is 'train-0*{late}' of train: ",
    ):
        check_prompts(make_prompts(config), config).require()


def test_of_equal_problems_the_first_is_kept_or_they_stop_a_run(tmp_path: Path) -> None:
    """If it fails, two equal rows of a published set keep all of it from being used, or a problem counts twice."""
    rows = sums(6)
    rows[3], rows[5] = rows[1], rows[2] | {"answer": "#### 99"}
    source = write(rows, tmp_path / "a.jsonl")
    config = configured(test_data=source)
    with pytest.raises(QualityError, match=r"test\.problem: 4 of 6 rows have what another row has too: 'test-0"):
        check_test(make_test(config), config, {}, 1.0).require()
    left_out: list[str] = []
    dropping = configured(test_data=source, unusable="drop")
    kept = make_test(dropping, left_out)
    assert kept["id"].to_pylist() == ["test-000000", "test-000001", "test-000002", "test-000004"]
    assert left_out == [
        "test problem 'test-000003' is the same as 'test-000001'",
        "test problem 'test-000005' is the same as 'test-000002', with another reference",
    ]
    check_test(kept, dropping, {}, 1.0).require()


def test_a_row_that_is_left_out_moves_no_other(tmp_path: Path) -> None:
    """If it fails, one bad row more gives a run other validation and test problems, and other numbers."""
    fields = {"validation_size": 8, "test_size": 10, "train_size": 20}
    clean, spoiled = sums(40), sums(40)
    spoiled[11] = spoiled[11] | {"answer": "none"}
    made = [
        make_prompts(configured(**fields, unusable="drop", **split_files(tmp_path, train=rows, test=rows)))
        for rows in (clean, spoiled)
    ]
    for split, size in (("validation", 8), ("test", 10), ("train", 20)):
        before, after = (set(problems(each[split])) for each in made)
        assert len(before) == len(after) == size
        # At most the row itself is gone, and one that follows in the order is there for it, here and in validation.
        assert len(before - after) <= 2 and after - before <= {str(row["question"]) for row in clean}
    assert made[0]["test"]["id"].to_pylist() == sorted(made[0]["test"]["id"].to_pylist())


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_split_of_which_nothing_is_left_is_refused_in_words(split: str, tmp_path: Path) -> None:
    """If it fails, a user reads that a table has no rows, and not that all were left out, and why."""
    splits = {"train": sums(4), "validation": sums(4, 10), "test": sums(4, 20)}
    if split == "test":
        splits["test"] = [row | {"answer": "none"} for row in splits["test"]]
    else:
        splits[split] = [reworded(row) for row in splits["test"]]
    config = configured(**split_files(tmp_path, **splits), unusable="drop", near_duplicates="drop")
    unusable: list[str] = []
    made, near = leave_out_near_duplicates(make_prompts(config, unusable), config)
    with pytest.raises(DataError, match=rf"{split} has 0 to use, .* since 4 were left out; .*\n  {split} "):
        check_supply(made, [*unusable, *near], config)


def test_fewer_training_problems_than_a_round_uses_are_refused_with_what_was_left_out(tmp_path: Path) -> None:
    """If it fails, the user searches for the problems that the file has and the run has not."""
    rows = sums(6)
    rows[4] = rows[5] = rows[0]
    config = configured(**split_files(tmp_path, train=rows, validation=sums(1, 20), test=sums(1, 30)), unusable="drop")
    unusable: list[str] = []
    made = make_prompts(config, unusable)
    check_supply(made, unusable, config, 4)
    said = r"train has 4 to use, but a round wants 5 \(rollout.prompts_per_round\), since 2 were left out; give"
    with pytest.raises(DataError, match=said):
        check_supply(made, unusable, config, 5)


def test_a_validation_that_leaves_too_few_to_train_is_named_as_the_cause(tmp_path: Path) -> None:
    """If it fails, who brings 300 problems is told to correct a blank row, and not that 256 of them were set aside."""
    rows = sums(30)
    rows[4] = rows[0]
    config = configured(**split_files(tmp_path, train=rows, test=sums(5, 60)), unusable="drop", validation_size=25)
    unusable: list[str] = []
    made = make_prompts(config, unusable)
    assert said_sizes(made, config) == (
        "4 to train, 25 to validate, set aside of the training source by prompts.validation_size, 5 to test"
    )
    with pytest.raises(DataError) as caught:
        check_supply(made, unusable, config, 5)
    assert str(caught.value).startswith(
        "train has 4 to use, but a round wants 5 (rollout.prompts_per_round), since 25 were set aside to "
        "validate (prompts.validation_size) and 1 was left out; lower prompts.validation_size, give "
        "prompts.validation_data, give more problems, lower rollout.prompts_per_round, or correct these:\n  train "
    )
