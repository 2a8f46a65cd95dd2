"""Problems from files: every format, columns by configuration, rows read by the domain, and what is refused."""

import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from tasks.gdsd import tables
from tasks.gdsd.config.prompts import PromptConfig, PromptFile
from tasks.gdsd.errors import ConfigError, DataError
from tasks.gdsd.prompts.problems import check_problems, make_prompts
from tasks.gdsd.prompts.quality import check_prompts, check_test
from tests.gdsd.prompts.conftest import SUDOKU, configured, generated, split_files, write
from tests.gdsd.series import Row


def puzzles(seed: int = 0) -> list[Row]:
    rows: list[Row] = generated(seed=seed)["train"].to_pylist()
    return rows


def from_file(path: Path | str, sha256: str | None = None) -> pa.Table:
    pinned = PromptFile(path=str(path)) if sha256 is None else PromptFile(path=str(path), sha256=sha256)
    return make_prompts(PromptConfig(train_data=pinned, validation_size=1, test_size=1))["train"]


# Files that hold problems as they stand


@pytest.mark.parametrize("name", ["p.parquet", "p.jsonl", "p.json", "P.JSONL", "p.csv"])
def test_a_file_gives_the_same_problems_back(name: str, tmp_path: Path) -> None:
    """If it fails, a documented format cannot be used: rows are lost or texts become numbers on the way."""
    write(puzzles(), tmp_path / name)
    found = from_file(tmp_path / name)
    assert found.select(tables.PROMPTS.names).to_pylist() == puzzles()
    check_problems(PromptConfig(domain=SUDOKU), {"train": found})
    assert tables.write(found, tables.PROMPTS, tmp_path / "written.parquet").is_file()


def test_without_a_problem_column_the_prompt_is_the_problem(tmp_path: Path) -> None:
    """If it fails, a file of bare puzzles is not phrased as the policy knows them, or not verified."""
    bare = [{"id": row["id"], "prompt": row["problem"], "reference": row["reference"]} for row in puzzles()]
    write(bare, tmp_path / "bare.jsonl")
    assert from_file(tmp_path / "bare.jsonl").select(tables.PROMPTS.names).to_pylist() == puzzles()


def test_a_file_replaces_one_split_only(tmp_path: Path) -> None:
    """If it fails, giving training problems changes the test problems."""
    source = write(puzzles(seed=5), tmp_path / "p.jsonl")
    fields = {"domain": SUDOKU.model_dump(), "validation_size": 7, "test_size": 11}
    made = make_prompts(configured(**fields, train_data=source))
    assert made["test"] == generated()["test"] and made["validation"] == generated()["validation"]
    assert list(made) == ["train", "validation", "test"]


GARBAGE = b"\xff\xfe\x00garbage\n\x9f" * 100


@pytest.mark.parametrize(
    "name, content",
    [
        *((name, content) for name in ("p.parquet", "p.jsonl", "p.csv") for content in (GARBAGE, b"")),
        ("p.parquet", b"PAR1"),
        ("p.jsonl", b'{"id": "a"'),
    ],
)
def test_an_unreadable_file_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    """If it fails, a broken file ends in a stack trace of another library, or in an odd table."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        from_file(tmp_path / name)


def test_a_file_that_changed_after_pinning_is_refused(tmp_path: Path) -> None:
    """If it fails, results in the cache belong to problems that are no longer those of the file."""
    path = tmp_path / "p.jsonl"
    write(puzzles(), path)
    pinned = PromptFile(path=str(path))
    assert from_file(path, pinned.sha256).num_rows == 30
    write(puzzles(seed=1), path)
    with pytest.raises(DataError, match=f"{pinned.sha256} was pinned; restore it, or run"):
        from_file(path, pinned.sha256)


def test_a_file_that_cannot_be_reached_or_has_a_wrong_name_is_refused(tmp_path: Path) -> None:
    """If it fails, a mistyped path is noticed only on the cluster, or a pod ends in a stack trace of fsspec.

    dropbox is a protocol that fsspec knows but whose package is not installed.
    """
    (tmp_path / "train.jsonl").touch()
    said = (
        rf"no such file: '{tmp_path}/trian\.jsonl'; did you mean '{tmp_path}/train\.jsonl'\?; if only the cluster can"
    )
    with pytest.raises(ConfigError, match=said):
        PromptFile(path=str(tmp_path / "trian.jsonl"))
    for path in ("/nowhere/p.jsonl", "nosuchprotocol://p.jsonl", "dropbox://folder/p.jsonl"):
        with pytest.raises(DataError, match="cannot be read"):
            from_file(path, sha256="0" * 64)
    with pytest.raises(DataError, match=r"suffix '\.xlsx'; use one of \.parquet, \.jsonl, \.json, \.csv"):
        from_file("p.xlsx", sha256="0" * 64)


def test_a_csv_file_as_spreadsheets_write_it_is_read(tmp_path: Path) -> None:
    """If it fails, the first column of a file from a spreadsheet is missing, which begins with a byte order mark, or
    answers such as `None` are none."""
    (tmp_path / "p.csv").write_bytes(b"\xef\xbb\xbfproblem,reference\r\na,None\r\nb,NA\r\nc,nan\r\nd,007\r\n")
    found = from_file(tmp_path / "p.csv")
    assert found["problem"].to_pylist() == ["a", "b", "c", "d"]
    assert found["reference"].to_pylist() == ["None", "NA", "nan", "007"]


# Rows that the domain reads


def read(domain: str, rows: list[Row], path: Path, **fields: object) -> list[Row]:
    """The test problems that a source gives."""
    config = configured(domain={"name": domain}, test_data=write(rows, path), **fields)
    found: list[Row] = make_prompts(config)["test"].to_pylist()
    return found


MBPP = {
    "task_id": 11,
    "text": "Write a function to double a number.",
    "code": "def double(n): return 2 * n",
    "test_list": ["assert double(2) == 4", "assert double(0) == 0"],
    "test_setup_code": "",
}
HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": 'def double(n: int) -> int:\n    """Doubles a number."""\n',
    "canonical_solution": "    return 2 * n\n",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n",
    "entry_point": "double",
}
ROWS: dict[str, tuple[str, Row, dict[str, str], str, str]] = {
    # data set -> domain, row, columns, id, part of the reference
    "gsm8k": ("gsm8k", {"question": "1 + 1?", "answer": "1 + 1 = <<1+1=2>>2\n#### 2"}, {}, "test-000000", "2"),
    "math500": (
        "math",
        {"problem": "1/2?", "solution": r"\boxed{\frac12}", "answer": r"\frac{1}{2}", "unique_id": "test/a/1.json"},
        {"id": "unique_id"},
        "test/a/1.json",
        r"\frac{1}{2}",
    ),
    "mbpp": (
        "code",
        MBPP,
        {"id": "task_id", "problem": "text", "tests": "test_list", "setup": "test_setup_code", "solution": "code"},
        "test-000011",
        "assert double(2) == 4",
    ),
    "humaneval": (
        "code",
        HUMANEVAL,
        {"id": "task_id", "problem": "prompt", "tests": "test", "solution": "canonical_solution"},
        "HumanEval/0",
        '"entry_point":"double"',
    ),
    "countdown": ("countdown", {"nums": [3, 5, 7], "target": 22}, {"numbers": "nums"}, "test-000000", "3"),
    "sudoku": (
        "sudoku",
        {"Puzzle": "1034341021430321", "Solution": "1234341221434321"},
        {"puzzle": "Puzzle", "solution": "Solution"},
        "test-000000",
        "1234341221434321",
    ),
}


@pytest.mark.parametrize(
    ("name", "suffix"), [*((name, ".parquet") for name in ROWS), ("mbpp", ".jsonl"), ("countdown", ".jsonl")]
)
def test_rows_of_known_data_sets_are_read(name: str, suffix: str, tmp_path: Path) -> None:
    """If it fails, a data set that the documents name cannot be used with the columns that it has."""
    domain, row, columns, own_id, reference = ROWS[name]
    (found,) = read(domain, [row], tmp_path / f"p{suffix}", columns=columns)
    assert found["id"] == own_id and reference in str(found["reference"])
    table = pa.Table.from_pylist([found])
    config = configured(domain={"name": domain}, test_data={"path": str(tmp_path / f"p{suffix}")})
    check_test(table, config, {}, 1.0).require()
    check_problems(config, {"test": table})


def test_a_csv_file_is_read_by_the_domain_too(tmp_path: Path) -> None:
    """If it fails, numbers in a CSV file are not those of the problem."""
    (tmp_path / "p.csv").write_text('numbers,target\n"3,5,7",22\n"[3, 5, 8]",23\n')
    source, sizes = {"path": str(tmp_path / "p.csv")}, {"train_size": 1, "validation_size": 1}
    made = make_prompts(configured(domain={"name": "countdown"}, test_data=source, **sizes))
    assert made["test"]["problem"].to_pylist() == ["3,5,7:22", "3,5,8:23"]


def test_numbers_as_ids_are_told_apart_between_splits(tmp_path: Path) -> None:
    """If it fails, a data set that numbers the rows of each split from 0 is refused: its ids leak."""
    splits: dict[str, list[Row]] = {
        split: [{"id": index, "question": f"{split} {index} ?", "answer": f"#### {index}"} for index in range(3)]
        for split in tables.SPLITS
    }
    config = configured(**split_files(tmp_path, **splits))
    made = make_prompts(config)
    assert made["test"]["id"].to_pylist() == ["test-000000", "test-000001", "test-000002"]
    check_prompts(made, config).require()


def test_ids_are_texts_or_whole_numbers(tmp_path: Path) -> None:
    """If it fails, whole numbers that pandas wrote as floats, or that CSV has as texts, end in a traceback or leak
    from split to split, or a row has an id that nobody can find again."""
    ids = [0, 1.0, "2", "a", 10**20, "3.0", "3.5", "007", 7, "1e5", -4]
    rows = [{"id": own, "question": f"{place} ?", "answer": "#### 1"} for place, own in enumerate(ids)]
    found = [row["id"] for row in read("gsm8k", rows, tmp_path / "p.jsonl")]
    assert found[:7] == ["test-000000", "test-000001", "test-000002", "a", f"test-{10**20}", "test-000003", "3.5"]
    assert found[7:] == ["test-007", "test-000007", "1e5", "test--00004"]
    frame = pa.table({"id": [1.0, 2.0], "question": ["a ?", "b ?"], "answer": ["1", "2"]})
    pyarrow.parquet.write_table(frame, tmp_path / "p.parquet")
    source = {"path": str(tmp_path / "p.parquet")}
    assert make_prompts(configured(test_data=source))["test"]["id"].to_pylist() == ["test-000001", "test-000002"]
    for own in (2.0**53, -(2.0**53), "1.23E+11", "9.007199254740993e+18", "9007199254740993.0"):
        with pytest.raises(
            DataError, match=r"1 of 1 rows .*\n  row 0: id .* is a long number that a program has short"
        ):
            read("gsm8k", [{"id": own, "question": "q ?", "answer": "1"}], tmp_path / "p.jsonl")
    for own in (1.5, True, ["a"], {"b": 1}):
        with pytest.raises(DataError, match=r"1 of 1 rows .*\n  row 0: id must be a text or a whole number, not "):
            read("gsm8k", [{"id": own, "question": "q ?", "answer": "1"}], tmp_path / "p.jsonl")


def test_only_what_is_read_of_a_row_matters(tmp_path: Path) -> None:
    """If it fails, one odd cell spoils the other rows or columns, or the user does not learn which cell it is."""
    odd = {"note": pa.array([b"x", None]), "prompt": pa.array([datetime.datetime(2024, 1, 1), None])}
    table = {"question": pa.array(["a ?", "b ?"]), "answer": pa.array(["#### 1", "2"])} | odd
    path = tmp_path / "p.parquet"
    pyarrow.parquet.write_table(pa.table(table), path)
    made = make_prompts(configured(test_data={"path": str(path)}))
    assert made["test"]["reference"].to_pylist() == ["1", "2"]
    for cells, said in zip(odd.values(), ["bytes", "datetime"], strict=True):
        pyarrow.parquet.write_table(pa.table(table | {"answer": cells}), path)
        with pytest.raises(DataError, match=rf"2 of 2 rows .*\n  row 0: answer holds a value of type \w*{said}"):
            make_prompts(configured(test_data={"path": str(path)}))


@pytest.mark.parametrize("names", [["question", "answer"], ["problem", "reference"]], ids="-".join)
def test_a_blank_id_is_none(names: list[str], tmp_path: Path) -> None:
    """If it fails, rows have an id that nobody can see or find, or the user does not learn which rows have none."""
    rows: list[Row] = [{"id": own} | dict.fromkeys(names, "1") for own in ("", "x", " \n", None)]
    for unusable in ("refuse", "drop"):
        with pytest.raises(DataError) as caught:
            read("gsm8k", rows, tmp_path / "p.jsonl", unusable=unusable)
        head, *lines, remedy = str(caught.value).splitlines()
        assert head == "3 of 4 rows of the test source cannot be read (rows are counted from 0):"
        assert lines == [f"  row {row} has no id" for row in (0, 2, 3)]
        assert "prompts.columns: {id: NAME} takes" in remedy and remedy.endswith("No option leaves out rows for ids.")


def test_a_problem_is_not_what_a_program_wrote_in_its_place(tmp_path: Path) -> None:
    """If it fails, a policy is asked `nan`, which pandas writes where a problem is missing."""
    rows: list[Row] = [{"question": text, "answer": "1"} for text in ("nan", "What is #N/A?", "#REF!", "2-Jan")]
    with pytest.raises(DataError) as caught:
        read("gsm8k", rows, tmp_path / "p.jsonl")
    head, *lines, _ = str(caught.value).splitlines()
    assert head.startswith("3 of 4 rows")
    assert lines == [
        "  row 0: the problem 'nan' is how programs write that a value is missing",
        "  row 2: the problem '#REF!' is what a spreadsheet shows instead of a value",
        "  row 3: the problem '2-Jan' is a date, which spreadsheets make of 1/2 and of 1-2",
    ]


def test_problems_as_they_stand_are_texts(tmp_path: Path) -> None:
    """If it fails, a number is cast to text unseen, in other words than the file's."""
    rows: list[Row] = [{"problem": "1 + 1?", "reference": "2"}, {"problem": "1 / 2?", "reference": 0.5}]
    with pytest.raises(DataError, match=r"1 of 2 rows .*\n  row 1: reference must be of type text, not float: 0\.5"):
        read("gsm8k", rows, tmp_path / "p.jsonl")
    deep: list[object] = []
    for _ in range(500):
        deep = [deep]
    with pytest.raises(DataError, match=r"row 2: reference must be of type text, not list: \[\[\[\[\[\[\[\.\.\."):
        read("gsm8k", [*rows, {"problem": "1?", "reference": deep}], tmp_path / "p.jsonl")
    (kept,) = read("gsm8k", [*rows, {"problem": None, "reference": "1"}], tmp_path / "p.jsonl", unusable="drop")
    assert kept["problem"] == "1 + 1?"


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    "names", [["question", "answer"], ["problem", "reference"], ["prompt", "problem", "reference"]], ids="-".join
)
def test_a_row_without_a_value_is_refused_or_left_out(names: list[str], suffix: str, tmp_path: Path) -> None:
    """If it fails, an answer that is missing is the answer `None`, or the user does not learn in which row it is."""
    whole: Row = dict.fromkeys(names, "9")
    lacking: list[Row] = [{name: "1" for name in names if name != lost} for lost in names]
    path = tmp_path / f"p.{suffix}"
    with pytest.raises(DataError) as caught:
        read("gsm8k", [whole, *lacking, dict.fromkeys(names)], path)
    head, *lines, _ = str(caught.value).splitlines()
    assert (
        head
        == f"{len(names) + 1} of {len(names) + 2} rows of the test source cannot be read (rows are counted from 0):"
    )
    assert lines[:-1] == [f"  row {row}: {name} has no value" for row, name in enumerate(names, 1)]
    assert lines[-1] == f"  row {len(names) + 1}: {' and '.join(names)} have no value"
    (kept,) = read("gsm8k", [whole, *lacking], path, unusable="drop")
    assert kept["problem"] == "9"


def test_problems_as_they_stand_may_have_other_names(tmp_path: Path) -> None:
    """If it fails, a file of finished problems must be rewritten for the names of its columns."""
    rows: list[Row] = [{"key": "a", "text": "1 + 1?", "prompt": "other", "truth": "2", "reference": "x"}]
    columns = {"id": "key", "problem": "text", "reference": "truth"}
    (found,) = read("gsm8k", rows, tmp_path / "p.jsonl", columns=columns)
    assert found == {"id": "a", "prompt": "other", "problem": "1 + 1?", "reference": "2"}


def test_rows_that_cannot_be_read_are_counted_and_located(tmp_path: Path) -> None:
    """If it fails, the user of a data set with broken rows does not learn which ones are broken."""
    rows: list[Row] = [{"question": f"{index}?", "answer": f"#### {index}"} for index in range(12)]
    for index in (1, 4, 5, 7, 9, 11):
        rows[index]["answer"] = "who knows"
    rows[4]["question"] = None
    with pytest.raises(DataError) as caught:
        read("gsm8k", rows, tmp_path / "p.jsonl")
    head, *lines, remedy = str(caught.value).splitlines()
    assert remedy == "Correct them, or leave them out by prompts.unusable: drop."
    assert head == "6 of 12 rows of the test source cannot be read (rows are counted from 0):"
    assert [line.split(":")[0].strip() for line in lines] == ["row 1", "row 4", "row 5", "row 7", "row 9"]
    assert "not 'who knows'" in lines[0] and lines[1] == "  row 4: question has no value"


def test_columns_that_the_source_does_not_have_are_named(tmp_path: Path) -> None:
    """If it fails, the user has to open the file to learn what its columns are called."""
    rows: list[Row] = [{"q": "1 + 1?", "a": "#### 2"}]
    with pytest.raises(DataError, match=r"columns names question, but the test .* columns q, a; .* so rename"):
        read("gsm8k", rows, tmp_path / "p.jsonl", columns={"question": "question"})
    with pytest.raises(DataError, match=r"has the columns q, a, but wanted are question, answer; say by prompts"):
        read("gsm8k", rows, tmp_path / "p.jsonl")
    with pytest.raises(
        DataError, match=r"test source has no column 'answer'; say by prompts.columns which of q, a it is$"
    ):
        read("gsm8k", rows, tmp_path / "p.jsonl", columns={"question": "q"})
    assert read("gsm8k", rows, tmp_path / "p.jsonl", columns={"question": "q", "answer": "a"})
    said = (
        r"no column 'problem'; say by prompts.columns which of task_id, prompt, canonical_solution, test, entry_point"
    )
    with pytest.raises(DataError, match=said):
        read("code", [HUMANEVAL], tmp_path / "p.jsonl")
    (tmp_path / "p.csv").write_text("Question, answer\n1 + 1?, 2\n")
    said = r"""no column 'answer'; .* of Question, ' answer' it is, such as prompts.columns: {answer: " answer"}, or"""
    with pytest.raises(DataError, match=said):
        source = {"path": str(tmp_path / "p.csv")}
        make_prompts(configured(test_data=source, columns={"question": "Question"}, unusable="drop"))
    odd: list[Row] = [{"question,answer": "1,2", "\ufeffquestion": "1 + 1?", " a": "2", "the answer": "2"}]
    with pytest.raises(DataError, match=r"has the columns 'question,answer', '\\ufeffquestion', ' a', the answer, but"):
        read("gsm8k", odd, tmp_path / "p.jsonl")


@pytest.mark.parametrize("names", [["question", "answer"], ["problem", "reference"]], ids="-".join)
@pytest.mark.parametrize("name", ["p.csv", "p.parquet"])
def test_a_source_without_rows_is_refused(name: str, names: list[str], tmp_path: Path) -> None:
    """If it fails, an empty export ends in a traceback, or a run starts without a single problem."""
    empty, path = pa.table({column: pa.array([], pa.string()) for column in names}), tmp_path / name
    (pyarrow.csv.write_csv if name == "p.csv" else pyarrow.parquet.write_table)(empty, path)
    config = configured(test_data={"path": str(path)})
    with pytest.raises(DataError, match=rf"{name}' is not readable .* with at least one row: "):
        make_prompts(config)
