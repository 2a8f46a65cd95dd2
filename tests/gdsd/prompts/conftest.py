"""Files of problems, configurations that name them, and what a suite found."""

import json
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from tasks.gdsd.config.prompts import PromptConfig
from tasks.gdsd.domains import DomainChoice
from tasks.gdsd.domains.sudoku import SudokuConfig
from tasks.gdsd.prompts.expectations import Finding
from tasks.gdsd.prompts.problems import make_prompts
from tests.gdsd.series import Row

SUDOKU = DomainChoice(SudokuConfig(min_empty=6, max_empty=10))


def generated(domain: DomainChoice = SUDOKU, **changed: int) -> dict[str, pa.Table]:
    sizes = {"train_size": 30, "validation_size": 7, "test_size": 11} | changed
    return make_prompts(PromptConfig(domain=domain, **sizes))


def write(rows: list[Row], path: Path) -> dict[str, str]:
    """Writes rows in the format that the suffix names, and returns the file as a source."""
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        pyarrow.csv.write_csv(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"path": str(path)}


def sums(count: int, first: int = 0) -> list[Row]:
    """Word problems with no five words in common."""
    return [
        {"question": " ".join(f"w{word * number + 1}x{word}" for word in range(12)), "answer": f"It is #### {number}"}
        for number in range(first, first + count)
    ]


def split_files(folder: Path, **splits: list[Row]) -> dict[str, dict[str, str]]:
    """Writes each split's rows to a file, and returns the fields that name them."""
    return {f"{split}_data": write(rows, folder / f"{split}.jsonl") for split, rows in splits.items()}


def configured(**fields: object) -> PromptConfig:
    return PromptConfig.model_validate_json(json.dumps({"domain": {"name": "gsm8k"}} | fields))


def failed(findings: Iterable[Finding]) -> set[tuple[str, str, str | None]]:
    """Table, expectation without its first word, and column of each finding."""
    return {(finding.table, finding.expectation.removeprefix("expect_"), finding.column) for finding in findings}
