"""The check of rewards at the start of a run: what it refuses before anything is trained, and what it only records."""

import json
import logging
from pathlib import Path

import pyarrow as pa
import pytest
from flytekit.types.file import FlyteFile

from tasks.check import Section, check_rewards, sections, show_verdicts
from tasks.gdsd import tables
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.domains import Domain, DomainChoice
from tasks.gdsd.errors import DataError
from tests.gdsd.report.records import record
from tests.gdsd.reward.test_probes import PROBLEMS, Constant, Deaf, Sound
from tests.gdsd.scripted import choice
from tests.workflows.conftest import quick_runs
from workflows import gdsd


def asked(folder: Path, *kinds: type[Domain], right_only: bool = False) -> tuple[list[FlyteFile], list[Section]]:
    """The same problems for each of some domains."""
    file = FlyteFile(str(tables.write(PROBLEMS, tables.PROMPTS, folder / "problems.parquet")))
    names = [Section(problems=kind.__name__, domain=choice(kind), right_only=right_only) for kind in kinds]
    return [file] * len(kinds), names


def test_every_table_of_a_run_has_its_section() -> None:
    """If it fails, a guard's reward is never looked at, or problems are judged by another domain's."""
    guards = {"other": {"domain": {"name": "countdown"}}}
    config = TrainConfig.model_validate_json(json.dumps({"judge": {"guards": guards}}))
    found = sections(config.prompts, config.rollout, config.judge)
    assert [(each.problems, each.domain.name, each.completions, each.right_only) for each in found] == [
        ("train", "sudoku", 448, False),
        ("validation", "sudoku", None, True),
        ("test", "sudoku", None, True),
        ("guard other", "countdown", None, False),
    ]


def test_warnings_go_to_the_log_and_to_the_record(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If it fails, nobody hears of a reward that teaches nothing until the run has taught nothing."""
    problems, names = asked(tmp_path, Sound, Constant)
    with caplog.at_level(logging.WARNING, "tasks"):
        stats = check_rewards.task_function(problems, names)
    assert stats.warnings == ["Constant verdicts: reward always the same"] and stats.seconds > 0
    assert "check: Constant verdicts: reward always the same in 1 table" in record(check=stats).warnings()
    (line,) = [record.getMessage() for record in caplog.records if record.name == "tasks.check"]
    assert line.startswith(
        "tests.gdsd.reward.test_probes:Constant, Constant: all answers to a problem have one reward, 0.5 in"
    )


def test_a_refused_check_still_shows_what_was_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If it fails, who has to mend a reward sees one verdict of it, and none of the others."""
    problems, names = asked(tmp_path, Sound, Deaf)
    with caplog.at_level(logging.ERROR, "tasks"), pytest.raises(DataError, match="takes none of 9 right answers for"):
        show_verdicts.task_function(problems, names)
    assert "Deaf: 9 problems of Deaf" in caplog.text and "Sound: 9 problems of Sound" in caplog.text
    problems, names = asked(tmp_path, Sound, right_only=True)
    assert str(show_verdicts.task_function(problems, names)).splitlines()[-1] == "no warnings"


def test_a_run_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    """If it fails, a reward that no right answer solves costs a warm start at least, and the first rounds at most."""
    paths = {}
    for split, first in (("train", 0), ("validation", 3), ("test", 6)):
        paths[f"{split}_data"] = {"path": str(tmp_path / f"{split}.jsonl")}
        rows: pa.Table = PROBLEMS.slice(first, 3).select(["problem", "reference"])
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows.to_pylist()))
    domain: DomainChoice = choice(Deaf)
    prompts = {"domain": domain.model_dump(mode="json"), **paths}
    config = TrainConfig.model_validate_json(
        json.dumps({"rounds": 1, "prompts": prompts, "rollout": {"prompts_per_round": 2}})
    )
    with quick_runs(tmp_path / "data"), pytest.raises(DataError, match="takes none of 3 right answers for one"):
        gdsd.train(config=config)
    assert not list((tmp_path / "data").glob("policy-*"))
