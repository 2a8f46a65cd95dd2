"""What is said of a run's problems."""

import json
from pathlib import Path

import pytest
from flytekit.types.file import FlyteFile

from tasks.gdsd import tables
from tasks.gdsd.config.evaluate import GuardConfig
from tasks.gdsd.config.prompts import PromptConfig
from tasks.gdsd.errors import DataError
from tasks.prompts import prepare_guard

GOOD, BAD = ({"question": f"How many{dots}?", "answer": f"#### {value}"} for dots, value in (("", 2), ("...", "none")))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            [GOOD, BAD],
            ["guard numbers: 1 of 2 rows of the test source cannot be read", "judge.guards.numbers.unusable"],
        ),
        ([GOOD, GOOD], ["guard numbers: gsm8k prompts: ", "test.problem", "judge.guards.numbers.unusable: drop"]),
    ],
)
def test_a_guard_is_named_where_its_problems_are_refused(rows: list[object], words: list[str], tmp_path: Path) -> None:
    """If it fails, a person with three guards does not learn which one's file is wrong, or looks into the test's."""
    file = tmp_path / "guard.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    written = {"domain": {"name": "gsm8k"}, "test_size": 4, "test_data": {"path": str(file)}}
    config = GuardConfig.model_validate_json(json.dumps(written))
    train = tables.write(tables.PROMPTS.empty_table(), tables.PROMPTS, tmp_path / "train.parquet")
    with pytest.raises(DataError) as refused:
        prepare_guard(name="numbers", config=config, prompts=PromptConfig(), train=FlyteFile(str(train)))
    said = str(refused.value)
    assert all(word in said for word in words) and "NAME" not in said, said
