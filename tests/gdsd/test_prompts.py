"""Prompt tables: generated or read from pinned files, checked, and dealt out to rounds."""

import json
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from tasks.gdsd import tables
from tasks.gdsd.config import PromptConfig, PromptFile
from tasks.gdsd.errors import ConfigError, DataError, GdsdError
from tasks.gdsd.prompts import check_problems, make_prompts, round_rows


def generated(**changed: int) -> dict[str, pa.Table]:
    sizes = {"train_size": 30, "validation_size": 7, "test_size": 11} | changed
    return make_prompts(PromptConfig(**sizes))


def from_file(path: Path | str, sha256: str | None = None) -> pa.Table:
    pinned = PromptFile(path=str(path)) if sha256 is None else PromptFile(path=str(path), sha256=sha256)
    return make_prompts(PromptConfig(train_file=pinned, validation_size=1, test_size=1))["train"]


def write_jsonl(table: pa.Table, path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))


WRITERS: dict[str, Callable[[pa.Table, Path], None]] = {
    "p.parquet": lambda table, path: pyarrow.parquet.write_table(table, path),
    "p.jsonl": write_jsonl,
    "p.json": write_jsonl,
    "P.JSONL": write_jsonl,
    "p.csv": lambda table, path: pyarrow.csv.write_csv(table, path),
}


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fails what would go on for ever."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# Generated problems


def test_generated_tables_have_the_declared_schema_and_sizes() -> None:
    """If it fails, later stages cannot read the problems, or a run has fewer than it asked for."""
    made = generated()
    assert {split: table.num_rows for split, table in made.items()} == {"train": 30, "validation": 7, "test": 11}
    for table in made.values():
        assert table.schema.equals(tables.PROMPTS)
        assert all(row["problem"] in row["prompt"] for row in table.to_pylist())
    check_problems("sudoku", made)


def test_splits_share_no_problem_and_no_id() -> None:
    """If it fails, the reported gain is measured on problems that were trained on."""
    made = generated(train_size=400, validation_size=100, test_size=100)
    for name in ("problem", "prompt", "id"):
        assert len({value for table in made.values() for value in table[name].to_pylist()}) == 600


def test_a_larger_training_set_leaves_the_test_set_as_it_was() -> None:
    """If it fails, results of runs with different training sets cannot be compared."""
    small, large = generated(), generated(train_size=60, validation_size=9)
    assert small["test"].equals(large["test"])
    assert large["validation"].slice(0, 7).equals(small["validation"])


def test_problems_follow_from_the_seed() -> None:
    """If it fails, a rerun trains on other problems, or all seeds on the same."""
    assert all(generated()[split].equals(table) for split, table in generated().items())
    assert not generated()["test"].equals(generated(seed=1)["test"])


def test_more_puzzles_than_there_are_is_refused() -> None:
    """If it fails, a run hangs in its first stage without a word: it looks for a puzzle that does not exist.

    With one empty cell there are 288 * 16 = 4,608 puzzles, each with one solution; 5,000 are asked for.
    """
    with within(30), pytest.raises(GdsdError):
        make_prompts(PromptConfig(min_empty=1, max_empty=1, train_size=4000, validation_size=500, test_size=500))


# Problems from files


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_gives_the_same_problems_back(name: str, tmp_path: Path) -> None:
    """If it fails, a documented format cannot be used: rows are lost or texts become numbers on the way."""
    table = generated()["train"]
    WRITERS[name](table, tmp_path / name)
    found = from_file(tmp_path / name)
    assert found.select(table.schema.names).to_pylist() == table.to_pylist()
    check_problems("sudoku", {"train": found})
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
    made = make_prompts(PromptConfig(train_file=file, validation_size=7, test_size=11))
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
    ],
)
def test_an_unreadable_file_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    """If it fails, a broken file ends in a stack trace of another library, or in an odd table."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        from_file(tmp_path / name)


@pytest.mark.parametrize("name", ["p.parquet", "p.jsonl", "p.csv"])
def test_an_empty_file_is_refused(name: str, tmp_path: Path) -> None:
    """If it fails, a run starts without a single problem."""
    (tmp_path / name).write_bytes(b"")
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


# Checks by the domain


def test_faults_are_counted_and_located() -> None:
    """If it fails, the user of a file with bad puzzles does not learn which ones are bad."""
    rows = generated()["train"].to_pylist()
    for index in (2, 3, 5, 8, 13, 21):
        rows[index]["reference"] = "wrong"
    rows[8]["problem"] = "not a puzzle"
    with pytest.raises(DataError) as caught:
        check_problems("sudoku", {"validation": pa.Table.from_pylist(rows, tables.PROMPTS)})
    message = str(caught.value)
    assert "6 of 30 validation problems are not valid sudoku" in message
    assert "'train-000002': " in message and "'not a puzzle' is not 16 characters" in message
    assert "train-000021" not in message, "only the first five are listed"


# Problems of a round


@pytest.mark.parametrize("rows, per_round", [(12, 4), (10, 4), (7, 7), (5, 1)])
def test_rounds_go_through_the_problems_in_passes(rows: int, per_round: int) -> None:
    """If it fails, some problems are trained on far more than others, or twice in a round."""
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


def test_passes_differ_and_rounds_are_reproducible() -> None:
    """If it fails, a resumed run sees other problems, or every pass repeats the last one's order."""
    assert round_rows(100, 10, 3, 0) == round_rows(100, 10, 3, 0)
    assert round_rows(100, 10, 3, 0) != round_rows(100, 10, 3, 1)
    assert round_rows(100, 10, 3, 0) != round_rows(100, 10, 13, 0)


def test_a_round_larger_than_the_problems_is_refused() -> None:
    """If it fails, a problem comes twice in a round, with the same random numbers."""
    with pytest.raises(DataError, match="wants 11 different problems, but there are 10"):
        round_rows(10, 11, 0, 0)
