"""`evaluate` as its user meets it: lengths, several samples, shards, kill; and a run with a guard."""

import json
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from flytekit.types.directory import FlyteDirectory

from tasks.evaluate import warn_of_another_domain
from tasks.gdsd.domains import DomainChoice
from tasks.gdsd.domains.sudoku import SudokuConfig
from tests.workflows.conftest import Outcome, Pyflyte, run_in_process


def sweep(shards: int) -> str:
    """Two lengths, 6 problems, each answered twice."""
    sampler = {"block_length": 8, "steps_per_block": 4, "temperature": 0.7}
    evaluation = {"samples": 2, "pass_at": [1, 2], "shards": shards, "sampler": sampler}
    prompts = {"test_size": 6}
    return json.dumps({"lengths": [16, 32], "prompts": prompts, "evaluation": evaluation})


def results(outcome: Outcome) -> list[tuple[list[str], list[dict[str, object]]]]:
    """What was said of each length, without times and places, and its table of samples."""
    lines = [line for line in outcome.text.splitlines() if line]
    starts = [index for index, line in enumerate(lines) if line.startswith("solved ")]
    found = []
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        said = [line for line in lines[start:end] if not line.startswith(("time ", "samples ", "protocol "))]
        (samples,) = (line.split(None, 1)[1] for line in lines[start:end] if line.startswith("samples "))
        found.append((said, pq.read_table(samples).to_pylist()))
    return found


@pytest.mark.parametrize(
    ("beside", "warned"),
    [
        ("prompts: {domain: {name: countdown}}", True),
        ("prompts: {domain: {name: sudoku}}", False),
        ("prompts: 3", False),
        ("a: [", False),
        (None, False),
    ],
)
def test_a_policy_that_is_asked_other_problems_than_its_own_is_named(
    beside: str | None, warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """If it fails, whoever forgets the configuration takes a Sudoku's 0 % for what the policy reaches."""
    if beside is not None:
        (tmp_path / "config.yaml").write_text(beside)
    caplog.set_level("WARNING", "tasks.evaluate")
    warn_of_another_domain(FlyteDirectory(str(tmp_path / "policy")), DomainChoice(SudokuConfig()))
    assert ["trained on countdown problems" in line for line in caplog.messages] == [True] * warned


@pytest.fixture(scope="module")
def swept(smoke: Outcome, pyflyte: Pyflyte, home: Path) -> Outcome:
    """An undisturbed sweep in one shard."""
    arguments = ("--policy", smoke.folder() / "policy", "--config", sweep(1))
    outcome = pyflyte("run", "workflows/gdsd.py", "evaluate", *arguments, home=home)
    assert outcome.code == 0, outcome.text
    return outcome


def test_a_sweep_reports_each_length_with_its_samples(swept: Outcome) -> None:
    """One command shows how the length matters, and every answer can be read beside its prompt and verdict."""
    found = results(swept)
    assert len(found) == 2
    for (said, rows), length in zip(found, (16, 32), strict=True):
        assert f"of 6 sudoku problems at length {length}, temperature 0.7" in said[0]
        assert said[1].startswith("pass@2 ") and "cells" in said[2] and "100.0% judged" in said[3]
        assert len(rows) == 12 and {row["sample"] for row in rows} == {0, 1}
        for row in rows:
            assert row["steps"] == 4 * length // 8
            assert row["prompt"] == f"{row['problem']}=" and isinstance(row["completion"], str)
            assert row["reward"] == row["reward_cells"] and isinstance(row["solved"], bool)


def test_a_sweep_keeps_its_protocols(swept: Outcome) -> None:
    """A number outside a run must still say how it came about."""
    place = next(line for line in swept.text.splitlines() if line.startswith("protocol ")).split(None, 1)[1]
    protocols = [report["protocol"] for report in json.loads(Path(place).read_text())]
    assert [protocol["sampler"]["length"] for protocol in protocols] == [16, 32]
    for protocol in protocols:
        assert (protocol["samples"], protocol["pass_at"], protocol["problems"]) == (2, [1, 2], 6)
        assert protocol["domain"]["name"] == "sudoku" and len(protocol["prompts_sha256"]) == 64


@pytest.mark.whole
def test_a_killed_sweep_answers_no_finished_shard_again(
    smoke: Outcome, swept: Outcome, pyflyte: Pyflyte, tmp_path: Path
) -> None:
    """An evaluation of hours must not start again, and neither kill -9 nor the number of shards changes a number."""
    arguments = ("--policy", str(smoke.folder() / "policy"), "--config", sweep(3))
    command = ("run", "workflows/gdsd.py", "evaluate", *arguments)
    killed = run_in_process(*command, home=tmp_path, said=lambda line: "length 16: shard 2 of 3 done" in line)
    assert killed.code == -signal.SIGKILL
    resumed = pyflyte(*command, home=tmp_path)
    assert resumed.code == 0, resumed.text
    assert "length 16: shard 1 of 3 done" not in resumed.text, "shard 1 was finished before the kill"
    assert all(f"length 32: shard {shard} of 3 done" in resumed.text for shard in (1, 2, 3))
    assert results(resumed) == results(swept)


MICRO: dict[str, object] = {
    "rounds": 1,
    "prompts": {"train_size": 8, "validation_size": 4, "test_size": 8},
    "policy": {
        "tiny": {"hidden_size": 16, "intermediate_size": 16, "layers": 1, "heads": 2},
        "warm_start": {"steps": 40, "batch_size": 32, "learning_rate": 0.02},
    },
    "rollout": {"prompts_per_round": 4, "sampler": {"steps_per_block": 4}},
    "evaluation": {"samples": 2, "sampler": {"steps_per_block": 4, "temperature": 1.0}},
    "judge": {
        "resamples": 1000,
        "guards": {
            "strict": {"test_size": 6, "seed": 7, "tolerance": 0.0},
            "lenient": {"test_size": 6, "seed": 7, "tolerance": 1.0},
        },
    },
}


def test_a_policy_that_a_guard_does_not_clear_is_not_promoted(
    pyflyte_here: Pyflyte, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A policy must not be promoted for what it learned while it forgets what it knew.

    The tiny policies solve next to nothing, so the verdicts are made up: the trained policy solves every test problem
    and none of the guards', the base the other way round.
    """
    from tasks.gdsd.evaluate import answering
    from tasks.gdsd.prompts import expectations
    from tasks.gdsd.reward import rewards

    verify, answer = rewards.verify, answering.answer
    rounds: list[int] = []

    def noted(policy, *arguments):
        rounds.append(policy.record.round)
        return answer(policy, *arguments)

    def scripted(answers, choice):
        judged = verify(answers, choice)
        if "steps" not in answers.column_names:  # rollouts
            return judged
        guarded = len(set(answers["prompt_id"].to_pylist())) == 6
        place = judged.column_names.index("solved")
        solved = [(rounds[-1] == 0) is guarded] * judged.num_rows
        return judged.set_column(place, "solved", [solved])

    monkeypatch.setattr(answering, "answer", noted)
    monkeypatch.setattr(rewards, "verify", scripted)
    monkeypatch.setattr(expectations, "validate", lambda *arguments: [])  # most of the time of so small a run
    outcome = pyflyte_here("run", "workflows/gdsd.py", "train", "--config", json.dumps(MICRO))
    assert outcome.code == 0, outcome.text
    said, folder = outcome.text, outcome.folder()
    decision = json.loads((folder / "run.json").read_text())["decision"]
    assert decision["solved_difference"]["low"] > 0 and decision["promoted"] is False
    assert {guard["name"]: guard["held"] for guard in decision["guards"]} == {"strict": False, "lenient": True}
    assert "not promoted: " in said and "on the guard strict it may be worse by 100.0 points" in said
    assert "guard     lenient holds" in said and "guard     strict fails" in said
    assert "<th scope='row'>strict</th><td>6 sudoku</td>" in (folder / "report.html").read_text()
