"""Problems from files: every format, columns by configuration, rows read by the domain, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from tasks.gdsd import tables
from tasks.gdsd.config.prompts import PromptConfig, PromptFile
from tasks.gdsd.domains import DomainChoice
from tasks.gdsd.domains.sudoku import SudokuConfig
from tasks.gdsd.errors import ConfigError, DataError
from tasks.gdsd.prompts.problems import check_problems, make_prompts
from tasks.gdsd.prompts.quality import check_prompts, check_test


def generated(seed: int = 0) -> dict[str, pa.Table]:
    return make_prompts(PromptConfig(seed=seed, train_size=30, validation_size=7, test_size=11))


def from_file(path: Path | str, sha256: str | None = None) -> pa.Table:
    pinned = PromptFile(path=str(path)) if sha256 is None else PromptFile(path=str(path), sha256=sha256)
    return make_prompts(PromptConfig(train_data=pinned, validation_size=1, test_size=1))["train"]


def write_jsonl(table: pa.Table, path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))


WRITERS: dict[str, Callable[[pa.Table, Path], None]] = {
    "p.parquet": lambda table, path: pyarrow.parquet.write_table(table, path),
    "p.jsonl": write_jsonl,
    "p.json": write_jsonl,
    "P.JSONL": write_jsonl,
    "p.csv": lambda table, path: pyarrow.csv.write_csv(table, path),
}


# Files that hold problems as they stand


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_gives_the_same_problems_back(name: str, tmp_path: Path) -> None:
    """If it fails, a documented format cannot be used: rows are lost or texts become numbers on the way."""
    table = generated()["train"]
    WRITERS[name](table, tmp_path / name)
    found = from_file(tmp_path / name)
    assert found.select(table.schema.names).to_pylist() == table.to_pylist()
    check_problems(DomainChoice(SudokuConfig()), {"train": found})
    assert tables.write(found, tables.PROMPTS, tmp_path / "written.parquet").is_file()


def test_without_a_problem_column_the_prompt_is_the_problem(tmp_path: Path) -> None:
    """If it fails, a file of bare puzzles is not phrased as the policy knows them, or not verified."""
    table = generated()["train"]
    write_jsonl(
        table.select(["id", "problem", "reference"]).rename_columns(["id", "prompt", "reference"]),
        tmp_path / "bare.jsonl",
    )
    found = from_file(tmp_path / "bare.jsonl")
    assert found.select(table.schema.names).to_pylist() == table.to_pylist()


def test_a_file_replaces_one_split_only(tmp_path: Path) -> None:
    """If it fails, giving training problems changes the test problems."""
    write_jsonl(generated(seed=5)["train"], tmp_path / "p.jsonl")
    file = PromptFile(path=str(tmp_path / "p.jsonl"))
    made = make_prompts(PromptConfig(train_data=file, validation_size=7, test_size=11))
    assert made["test"].equals(generated()["test"]) and made["validation"].equals(generated()["validation"])
    assert list(made) == ["train", "validation", "test"]


def test_a_wrong_suffix_is_refused(tmp_path: Path) -> None:
    """If it fails, the user is told of a broken file where only its name is wrong."""
    (tmp_path / "p.xlsx").write_bytes(b"anything")
    with pytest.raises(DataError, match=r"suffix '\.xlsx'; use one of \.parquet, \.jsonl, \.json, \.csv"):
        from_file(tmp_path / "p.xlsx")


GARBAGE = b"\xff\xfe\x00garbage\n\x9f" * 100


@pytest.mark.parametrize(
    "name, content",
    [
        ("p.parquet", GARBAGE),
        ("p.parquet", b"PAR1"),
        ("p.jsonl", GARBAGE),
        ("p.jsonl", b'{"id": "a"'),
        ("p.csv", GARBAGE),
        *((name, b"") for name in ("p.parquet", "p.jsonl", "p.csv")),
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
    write_jsonl(generated()["train"], path)
    pinned = PromptFile(path=str(path))
    assert from_file(path, pinned.sha256).num_rows == 30
    write_jsonl(generated(seed=1)["train"], path)
    with pytest.raises(DataError, match=f"{pinned.sha256} was pinned; restore it or pin anew"):
        from_file(path, pinned.sha256)


def test_a_missing_file_is_refused_when_pinning(tmp_path: Path) -> None:
    """If it fails, a mistyped path is noticed only on the cluster."""
    with pytest.raises(ConfigError, match=r"nowhere\.jsonl' cannot be read to pin its content"):
        PromptFile(path=str(tmp_path / "nowhere.jsonl"))


@pytest.mark.parametrize("path", ["/nowhere/p.jsonl", "nosuchprotocol://p.jsonl", "dropbox://folder/p.jsonl"])
def test_a_pinned_file_that_cannot_be_reached_is_refused(path: str) -> None:
    """If it fails, a pod that cannot reach the file ends in a stack trace of fsspec.

    The last one is a protocol that fsspec knows but whose package is not installed.
    """
    with pytest.raises(DataError, match="cannot be read"):
        from_file(path, sha256="0" * 64)


def test_a_csv_file_as_spreadsheets_write_it_is_read(tmp_path: Path) -> None:
    """If it fails, the first column of a file from a spreadsheet is missing: it begins with a byte order mark."""
    table = generated()["train"]
    pyarrow.csv.write_csv(table, tmp_path / "plain.csv")
    (tmp_path / "p.csv").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "plain.csv").read_bytes().replace(b"\n", b"\r\n"))
    assert from_file(tmp_path / "p.csv").to_pylist() == table.to_pylist()


def test_words_that_pandas_takes_for_missing_stay_words(tmp_path: Path) -> None:
    """If it fails, a CSV file whose answers are `None` or `NA` has no answers; an empty cell has none."""
    (tmp_path / "p.csv").write_text("problem,reference\na,None\nb,NA\nc,nan\nd,null\ne,\n")
    assert from_file(tmp_path / "p.csv")["reference"].to_pylist() == ["None", "NA", "nan", "null", None]


# Rows that the domain reads


def source_of(rows: list[dict[str, object]], path: Path) -> dict[str, str]:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"path": str(path)}


def configured(domain: str, test: Path, **fields: object) -> PromptConfig:
    return PromptConfig.model_validate_json(
        json.dumps({"domain": {"name": domain}, "test_data": {"path": str(test)}} | fields)
    )


def read(domain: str, rows: list[dict[str, object]], path: Path, **fields: object) -> list[dict[str, object]]:
    """The test problems that a source gives."""
    source_of(rows, path)
    return make_prompts(configured(domain, path, **fields))["test"].to_pylist()


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
ROWS: dict[str, tuple[str, dict[str, object], dict[str, str], str, str]] = {
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
    config = configured(domain, tmp_path / f"p{suffix}")
    check_test(table, config, [], 1.0).require()
    check_problems(config.domain, {"test": table})


def test_a_csv_file_is_read_by_the_domain_too(tmp_path: Path) -> None:
    """If it fails, numbers in a CSV file are not those of the problem."""
    (tmp_path / "p.csv").write_text('numbers,target\n"3,5,7",22\n"[3, 5, 8]",23\n')
    made = make_prompts(configured("countdown", tmp_path / "p.csv", train_size=1, validation_size=1))
    assert made["test"]["problem"].to_pylist() == ["3,5,7:22", "3,5,8:23"]


def test_numbers_as_ids_are_told_apart_between_splits(tmp_path: Path) -> None:
    """If it fails, a data set that numbers the rows of each split from 0 is refused: its ids leak."""
    files = {
        split: source_of(
            [{"id": index, "question": f"{split} {index} ?", "answer": f"#### {index}"} for index in range(3)],
            tmp_path / f"{split}.jsonl",
        )
        for split in ("train", "validation", "test")
    }
    config = configured("gsm8k", tmp_path, **{f"{split}_data": file for split, file in files.items()})
    made = make_prompts(config)
    assert made["test"]["id"].to_pylist() == ["test-000000", "test-000001", "test-000002"]
    check_prompts(made, config).require()


def test_problems_as_they_stand_may_have_other_names(tmp_path: Path) -> None:
    """If it fails, a file of finished problems must be rewritten for the names of its columns."""
    rows: list[dict[str, object]] = [{"key": "a", "text": "1 + 1?", "prompt": "other", "truth": "2", "reference": "x"}]
    columns = {"id": "key", "problem": "text", "reference": "truth"}
    (found,) = read("gsm8k", rows, tmp_path / "p.jsonl", columns=columns)
    assert found == {"id": "a", "prompt": "other", "problem": "1 + 1?", "reference": "2"}


def test_rows_that_cannot_be_read_are_counted_and_located(tmp_path: Path) -> None:
    """If it fails, the user of a data set with broken rows does not learn which ones are broken."""
    rows: list[dict[str, object]] = [{"question": f"{index}?", "answer": f"#### {index}"} for index in range(12)]
    for index in (1, 4, 5, 7, 9, 11):
        rows[index]["answer"] = "who knows"
    rows[4]["question"] = None
    with pytest.raises(DataError) as caught:
        read("gsm8k", rows, tmp_path / "p.jsonl")
    head, *lines = str(caught.value).splitlines()
    assert head == "6 of 12 rows of the test source cannot be read:"
    assert [line.split(":")[0].strip() for line in lines] == ["row 1", "row 4", "row 5", "row 7", "row 9"]
    assert "not 'who knows'" in lines[0] and "question must be a text, not None" in lines[1]


def test_columns_that_the_source_does_not_have_are_named(tmp_path: Path) -> None:
    """If it fails, the user has to open the file to learn what its columns are called."""
    rows: list[dict[str, object]] = [{"q": "1 + 1?", "a": "#### 2"}]
    with pytest.raises(DataError, match=r"columns names question, but the test source has the columns q, a"):
        read("gsm8k", rows, tmp_path / "p.jsonl", columns={"question": "question"})
    with pytest.raises(DataError, match=r"has the columns q, a, but wanted are question, answer; say by prompts"):
        read("gsm8k", rows, tmp_path / "p.jsonl")
    with pytest.raises(DataError, match=r"row 0: column 'answer' is missing; say by prompts.columns where it is"):
        read("gsm8k", rows, tmp_path / "p.jsonl", columns={"question": "q"})
    assert read("gsm8k", rows, tmp_path / "p.jsonl", columns={"question": "q", "answer": "a"})


@pytest.mark.parametrize("names", [["question", "answer"], ["problem", "reference"]], ids="-".join)
@pytest.mark.parametrize("name", ["p.csv", "p.parquet"])
def test_a_source_without_rows_is_refused(name: str, names: list[str], tmp_path: Path) -> None:
    """If it fails, an empty export ends in a traceback, or a run starts without a single problem."""
    WRITERS[name](pa.table({column: pa.array([], pa.string()) for column in names}), tmp_path / name)
    config = configured("gsm8k", tmp_path / name)
    with pytest.raises(DataError, match=rf"{name}' is not readable .* with at least one row: "):
        make_prompts(config)
