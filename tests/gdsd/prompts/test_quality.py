"""The Great Expectations suite of prompts: what it refuses, what it lets pass, and what it says."""

import datetime
import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from tasks.gdsd import tables
from tasks.gdsd.config.prompts import PromptConfig, TestConfig
from tasks.gdsd.domains import DomainChoice
from tasks.gdsd.domains.countdown import CountdownConfig
from tasks.gdsd.domains.gsm8k import Gsm8kConfig
from tasks.gdsd.domains.sudoku import Sudoku, SudokuConfig
from tasks.gdsd.errors import DataError, QualityError
from tasks.gdsd.prompts import quality
from tasks.gdsd.prompts.expectations import QualityReport
from tasks.gdsd.prompts.quality import check_prompts, check_test
from tests.gdsd.prompts.conftest import configured, failed
from tests.gdsd.series import Row


def prompt_rows(split: str, size: int = 6) -> list[Row]:
    return [
        {"id": f"{split}-{i}", "prompt": f"Solve {split} {i}", "problem": f"{split} {i}", "reference": str(i)}
        for i in range(size)
    ]


def prompt_tables(**changed: pa.Table) -> dict[str, pa.Table]:
    made = {split: pa.Table.from_pylist(prompt_rows(split)) for split in ("train", "validation", "test")}
    return made | changed


def edited(split: str, row: int, **values: object) -> pa.Table:
    rows = prompt_rows(split)
    rows[row] |= values
    return pa.Table.from_pylist(rows)


# A domain that takes any text for a problem and whole numbers for answers; nothing of the file is opened here.
CONFIG = configured(test_data={"path": "p.jsonl", "sha256": "0" * 64})


def check(tables: dict[str, pa.Table], config: PromptConfig = CONFIG) -> QualityReport:
    return check_prompts(tables, config)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_good_prompts_pass(kind: pa.DataType) -> None:
    """If this fails, every training run is refused before it starts, or one whose file pandas or polars wrote."""
    train = pa.Table.from_pylist(prompt_rows("train"))
    report = check(prompt_tables(train=train.set_column(2, "problem", train["problem"].cast(kind))))
    assert report.name == "gsm8k prompts"
    assert [finding.summary for finding in (*report.failures, *report.warnings)] == []
    assert {finding.table for finding in report.findings} == set(tables.SPLITS)
    report.require()


def test_bad_prompts_are_refused() -> None:
    """If this fails, a run trains on broken problems, or is tested on problems that it was trained on."""
    made = {split: prompt_rows(split) for split in ("train", "validation", "test")}
    train, validation, test = made.values()
    train[2] |= {"id": "train-0"}
    train[3] |= {"prompt": ""}
    train[4] |= {"problem": "train 1"}
    train[5] |= {"reference": None}
    validation[3] |= {"id": "train-1"}
    validation[4] |= {"problem": "train 0"}
    test[0] |= {"problem": "validation 5"}
    test[3] |= {"prompt": " \n\u2003"}
    report = check({split: pa.Table.from_pylist(rows) for split, rows in made.items()})
    expected = {
        ("train", "column_values_to_be_unique", "id"): (2, "'train-0'"),
        ("train", "column_values_to_be_unique", "problem"): (2, "'train-1': 'train 1'"),
        ("train", "column_values_to_not_match_regex", "prompt"): (1, "'train-3': ''"),
        ("train", "column_values_to_not_be_null", "reference"): (1, "'train-5': null"),
        ("validation", "column_values_to_be_null", "id_elsewhere"): (1, "'train-1': is 'train-1' of train"),
        ("validation", "column_values_to_be_null", "problem_elsewhere"): (
            1,
            "'validation-4': is 'train-0' of train: 'train 0'",
        ),
        ("test", "column_values_to_be_null", "problem_elsewhere"): (
            1,
            "'test-0': is 'validation-5' of validation: 'validation 5'",
        ),
        ("test", "column_values_to_not_match_regex", "prompt"): (1, "'test-3': ' \\n"),
    }
    assert failed(report.failures) == expected.keys()
    for finding in report.failures:
        (key,) = failed([finding])
        assert (finding.unexpected, finding.total) == (expected[key][0], 6)
        assert finding.examples[0].startswith(expected[key][1])
    twice = check(prompt_tables(train=edited("train", 1, problem=None), test=edited("test", 1, problem=None)))
    assert {key[1] for key in failed(twice.failures)} == {"column_values_to_not_be_null"}, "two nulls are no leak"
    (empty,) = check(prompt_tables(test=tables.PROMPTS.empty_table())).failures
    assert empty.summary == "test: the rows are 0, but should be at least 1"


def test_columns_that_are_missing_or_occur_twice_are_refused() -> None:
    """If this fails, a foreign file ends in a traceback, or which of two columns is trained on is left to chance."""
    train = pa.Table.from_pylist(prompt_rows("train"))
    foreign = pa.table({"question": ["a", "b"]})
    blank = edited("validation", 3, prompt=" ").drop_columns(["id"])  # the rest is still checked
    twice = train.append_column("problem", train["prompt"])
    report = check(prompt_tables(train=twice, validation=blank, test=foreign))
    assert failed(report.failures) == {
        ("validation", "column_to_exist", "id"),
        ("validation", "column_values_to_not_match_regex", "prompt"),
        ("train", "column_to_exist", "problem"),
        *(("test", "column_to_exist", name) for name in ("id", "prompt", "problem", "reference")),
    }
    assert (
        "validation.id: a table needs one column of this name; its columns are ['prompt', 'problem', 'reference']"
        in [finding.summary for finding in report.failures]
    )


def test_wrong_types_are_refused() -> None:
    """If this fails, numbers are cast to text unseen and the answers no longer match the verifier's."""
    wrong = {
        "train": [
            pa.array([1, 2, 3, 4, 5, 6]),
            pa.array([0.5, 1.5, 2.5, 3.5, 4.5, 5.5]),
            pa.array([[1], [1], [2], [3], [4], [5]]),
            pa.array([b"a"] * 6),
        ],
        "validation": [
            pa.array([datetime.date(2020, 1, 1)] * 6),
            pa.array([datetime.timedelta(1)] * 6),
            pa.array([{"grid": 1}] * 6),
            pa.array([True] * 6),
        ],
        "test": [pa.array([10**15] * 6, pa.timestamp("s"))] * 4,  # beyond the dates that Python can hold
    }
    report = check({split: pa.table(columns, tables.PROMPTS.names) for split, columns in wrong.items()})
    assert failed(report.failures) == {
        (split, "column_values_to_be_of_type", column) for split in wrong for column in tables.PROMPTS.names
    }
    assert {(finding.unexpected, len(finding.examples)) for finding in report.failures} == {(6, 5)}
    # pandas turns whole numbers with nulls to floats, which may hide one of the two mistakes.
    numbers, nulls = pa.array([1, None, 3, 4, 5, 6]), pa.nulls(6)
    train = pa.Table.from_pylist(prompt_rows("train")).set_column(0, "id", numbers).set_column(3, "reference", nulls)
    report = check(prompt_tables(train=train))
    assert {(finding.expectation, finding.column, finding.unexpected) for finding in report.failures} == {
        ("expect_column_values_to_be_of_type", "id", 5),
        ("expect_column_values_to_not_be_null", "id", 1),
        ("expect_column_values_to_not_be_null", "reference", 6),
    }


def test_hostile_prompts_reach_neither_page_nor_terminal() -> None:
    """If this fails, a downloaded prompt file runs scripts in the reader's Deck or control codes in his terminal."""
    hostile = "<script>alert(1)</script>&\x1b[2J"
    table = edited("train", 2, problem=hostile).append_column("<img src=x>\x1b", pa.array(["a"] * 6))
    report = check(prompt_tables(train=table, test=edited("test", 0, problem=hostile).drop_columns(["id"])))
    page = report.html()
    assert "<script" not in page and "<img" not in page and "\x1b" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;" in page
    with pytest.raises(QualityError) as caught:
        report.require()
    assert "<script>alert(1)" in str(caught.value) and "\x1b" not in str(caught.value)


def test_page_and_message_say_what_failed_where_how_often_and_what_to_do() -> None:
    """If this fails, the reader of the Deck or the log searches forty rows for the one that stopped his run."""
    report = check(prompt_tables(train=edited("train", 4, id="train-0"), test=edited("test", 1, prompt="")))
    page = report.html()
    assert f"passed {len(report.findings) - 2} of {len(report.findings)} expectations" in page
    assert page.count("FAILED") == 2 and page.rindex("FAILED") < page.index("passed</td>")
    with pytest.raises(QualityError) as caught:
        report.require()
    message = str(caught.value)
    assert f"gsm8k prompts: 2 of {len(report.findings)} checks failed; a row is named by its id" in message
    assert "train.id: 2 of 6 rows have what another row has too: 'train-0', 'train-0'" in message
    assert "test.prompt: 1 of 6 rows is blank: 'test-1': ''" in message and "expect_" not in message
    assert message.endswith("No option leaves out rows for ids.") and "drop" not in message
    copy = pickle.loads(pickle.dumps(caught.value))  # as it comes from another process
    assert isinstance(copy, QualityError) and isinstance(copy, DataError) and str(copy) == message


@pytest.mark.parametrize(
    ("spoiled", "helps"),
    [
        ({"id": "test-0"}, "Each row needs an id of its own"),
        ({"id": None}, "Each row needs an id of its own"),
        ({"problem": "test 0"}, "prompts.unusable: drop leaves out"),
        ({"problem": "train 1"}, "prompts.near_duplicates: drop leaves out"),
        ({"reference": "#### 5"}, "with prompts.columns: {question: problem, answer: reference} gsm8k reads them"),
    ],
)
def test_a_remedy_is_one_that_helps(spoiled: Row, helps: str) -> None:
    """If it fails, a person turns an option on, or leaves rows out, and reads the same refusal again."""
    remedies = ["Each row needs an id", "unusable: drop", "near_duplicates: drop", "{question: problem"]
    remedy = check(prompt_tables(test=edited("test", 3, **spoiled))).remedy
    assert helps in remedy
    named = [each for each in remedies if each in remedy]
    assert named == [each for each in remedies if each in helps] or ("reference" in spoiled and len(named) == 2)


def test_message_fits_on_a_screen_whatever_failed() -> None:
    """If this fails, a file of long broken prompts scrolls the reason out of the terminal."""
    rows: list[Row] = [{"id": "x" * 10_000, "prompt": " " * 10_000, "problem": "y" * 10_000, "reference": None}] * 50
    report = check({split: pa.Table.from_pylist(rows) for split in ("train", "validation", "test")})
    with pytest.raises(QualityError) as caught:
        report.require()
    message = str(caught.value)
    assert all(f"{finding.where}: {finding.counts}" in message for finding in report.failures)
    assert sum(1 + len(line) // 120 for line in message.splitlines()) <= 50
    assert all(len(example) <= 120 for finding in report.findings for example in finding.examples)
    assert all(len(finding.examples) <= 5 for finding in report.findings)


def test_no_word_of_great_expectations_reaches_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    """If this fails, eighty rounds bury the run's own log."""
    root, handler = logging.getLogger(), logging.StreamHandler(sys.stderr)
    root.addHandler(handler)
    try:
        check(prompt_tables(train=edited("train", 0, prompt=None).drop_columns(["id"])))
    finally:
        root.removeHandler(handler)
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("great_expectations").propagate


def test_importing_is_quick_and_a_run_writes_and_prints_nothing(tmp_path: Path) -> None:
    """If this fails, `pyflyte run --help` waits for Great Expectations, or a run leaves files or calls home."""
    code = """
import os, sys
sys.path.insert(0, os.environ["REPO"])
from tasks.gdsd.prompts import quality
heavy = {"great_expectations", "pandas", "flytekit"} & set(sys.modules)
assert not heavy, heavy
import pyarrow as pa
from tasks.gdsd.config.prompts import TestConfig
made = pa.Table.from_pylist([dict(id="a", prompt="a", problem="1.34341.2143.321", reference="1" * 16)])
written = []
def watch(event, args):
    if event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        written.append(args[0])
    if event == "socket.connect":
        written.append(args)
sys.addaudithook(watch)
quality.check_test(made, TestConfig(), {}, 1.0).require()
written = [name for name in written if ".pyc" not in str(name) and name != "/dev/null"]
assert not written, written
"""
    environment = os.environ | {"REPO": str(Path(__file__).parents[3]), "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


# What the domains add


@pytest.mark.parametrize(
    ("domain", "good", "bad"),
    [
        (
            SudokuConfig(),
            (".234341221434321", "1234341221434321"),
            {"problem": "1.34341.2143.32", "reference": "12343412214343210"},
        ),
        (CountdownConfig(), ("2,9:18", "2*9"), {"problem": "3,5,7", "reference": "__import__('os')"}),
        (Gsm8kConfig(), ("2 + 2?", "4"), {"reference": "two"}),
    ],
    ids=["sudoku", "countdown", "gsm8k"],
)
def test_what_a_domain_cannot_take_is_critical(
    domain: SudokuConfig | CountdownConfig | Gsm8kConfig, good: tuple[str, str], bad: dict[str, str]
) -> None:
    """If this fails, a file of another domain is found out only by the verifier, if at all."""
    rows = [{"id": str(row), "prompt": f"p{row}", "problem": good[0], "reference": good[1]} for row in range(2)]
    table = pa.Table.from_pylist([rows[0], rows[1] | bad])
    report = check_test(table, TestConfig.model_construct(domain=DomainChoice(domain)), {}, 1.0)
    found = {finding.column: finding for finding in report.failures if "match_regex" in finding.expectation}
    assert found.keys() == bad.keys()
    assert {name: finding.examples for name, finding in found.items()} == {
        name: [f"'1': {text!r}"] for name, text in bad.items()
    }
    whole = check_prompts(
        dict.fromkeys(tables.SPLITS, table), PromptConfig.model_construct(domain=DomainChoice(domain), similarity=0.8)
    )
    assert {("train", "column_values_to_match_regex", column) for column in bad} <= failed(whole.failures)


def test_an_error_says_in_the_domains_words_what_is_wanted() -> None:
    """If this fails, the owner of a file has to read the code to learn what his problems should look like."""

    class Own(Sudoku):
        problem_pattern, problem_form = "^[a-z]+$", ""

    rows = [{"id": "a", "prompt": "p", "problem": "1.34", "reference": "1234 1234 1234 1234"}]
    for domain, wanted in (
        (Sudoku(), "16 characters, row by row: 1, 2, 3, 4, or . for an empty cell"),
        (Own(), "a text that matches ^[a-z]+$"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(quality, "make", lambda choice, domain=domain: domain)
            report = check_test(pa.Table.from_pylist(rows), TestConfig(), {}, 1.0)
        with pytest.raises(QualityError) as caught:
            report.require()
        assert (
            f"test.problem: 1 of 1 rows is not {wanted}: 'a': '1.34'" in str(caught.value) and wanted in report.html()
        )
        assert "is not 16 characters, row by row: 1, 2, 3 or 4: 'a': '1234 1234 " in str(caught.value)


def test_near_duplicates_are_found_between_all_splits() -> None:
    """If this fails, the problems that choose the best round are copies of those that were trained on, or the reader
    sees the same beginning of two long texts twice, and not what is different."""
    long = "word " * 3 + " ".join(f"w{number}" for number in range(40))
    made = prompt_tables(
        train=edited("train", 1, problem=long),
        validation=edited("validation", 2, problem=long + " more"),
        test=edited("test", 3, problem=long + " less"),
    )
    report = check(made)
    assert failed(report.failures) == {
        (split, "column_values_to_be_null", "problem_nearly_elsewhere") for split in ("validation", "test")
    }
    first, second = sorted(report.failures, key=lambda finding: finding.table, reverse=True)
    said = (
        "validation.problem: 1 of 6 rows is nearly a problem of another split: 'validation-2': is nearly 'train-1' of"
    )
    assert first.summary.startswith(f"{said} train: '...") and "w39 more' / '..." in first.summary
    assert second.examples[0].startswith("'test-3': is nearly 'train-1' of train: '...")
    assert check(made, CONFIG.model_copy(update={"similarity": 1.0})).failures == []


def test_test_problems_alone_are_checked_like_those_of_a_run() -> None:
    """If this fails, a guard is measured on problems that no run would accept."""
    rows = prompt_rows("test")
    rows[1] |= {"id": "test-0"}
    rows[2] |= {"problem": "test 3"}
    rows[3] |= {"prompt": ""}
    assert failed(check_test(pa.Table.from_pylist(rows), CONFIG, {}, 1.0).failures) == {
        ("test", "column_values_to_be_unique", "id"),
        ("test", "column_values_to_be_unique", "problem"),
        ("test", "column_values_to_not_match_regex", "prompt"),
    }
    assert failed(check_test(tables.PROMPTS.empty_table(), CONFIG, {}, 1.0).failures) == {
        ("test", "table_row_count_to_be_between", None)
    }
