"""Attempts at rounds that stay in one task on a cluster: what the next one takes up, and what is seen meanwhile."""

import logging
import re
from pathlib import Path

import pytest
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile

from tasks import progress, resident
from tasks.flyte import telling
from tasks.flyte.attempts import Sender
from tasks.flyte.pace import Pace
from tasks.flyte.telling import Teller
from tasks.gdsd.records import Made, Progress
from tasks.gdsd.resident import state
from tasks.gdsd.resident.state import StateRecord
from tests.gdsd.resident.cases import ROUNDS, Case, prepare
from tests.gdsd.series import epoch, reward
from tests.tasks.pods import Attempt, attempt


def policy(found: Attempt) -> str:
    """The digest in the address of the policy that an attempt has stored."""
    assert found.error is None and found.outputs is not None, found.error
    address = found.outputs.literals["checkpoint"].scalar.blob.uri
    return re.findall("sha256-([0-9a-f]{64})", address)[0]


def test_the_next_attempt_goes_on_from_the_last_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If it fails, a machine that is taken away costs all rounds of its task, or the policy becomes another."""
    monkeypatch.setattr(progress, "_pace", Pace(1e9))
    rounds = prepare(tmp_path / "case", Case(compute={"save_minutes": 0.0}))
    inputs: dict[str, object] = {
        "policy": FlyteDirectory(str(rounds.policy)),
        "base": FlyteDirectory(str(rounds.policy)),
        "train": FlyteFile(str(rounds.train)),
        "domain": rounds.config.domain,
        "engine": rounds.engine,
        "config": rounds.config,
        "first": 0,
        "end": ROUNDS,
        "name": "micro",
        "rounds": ROUNDS,
        "before": [],
    }
    expected = policy(attempt(resident.train_rounds, tmp_path / "whole", None, **inputs))
    page = (tmp_path / "whole" / "outputs" / "deck.html").read_text()
    assert f"micro: round {ROUNDS} of {ROUNDS}" in page
    store, left = Sender.__call__, [4]  # of the second round, its first update

    def until(self: Sender, file: Path) -> None:
        store(self, file)
        left[0] -= 1
        if not left[0]:
            raise ConnectionError("the machine is taken away")

    with monkeypatch.context() as patch:
        patch.setattr(Sender, "__call__", until)
        patch.setattr(state.resume.transient, "may_pass", lambda _: False)
        assert attempt(resident.train_rounds, tmp_path / "first", None, **inputs).error is not None
    caplog.set_level("INFO")
    monkeypatch.setattr(logging.getLogger("tasks"), "propagate", True)
    assert policy(attempt(resident.train_rounds, tmp_path / "second", tmp_path / "first", **inputs)) == expected
    assert "has made 1 of these rounds" in caplog.text and "got to update 1; going on" in caplog.text


def test_rounds_of_other_processes_are_shown_by_the_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Deck is the task's own process's; if it fails, a run on several GPUs shows nothing until they are done."""
    monkeypatch.setenv("GDSD_HOME", str(tmp_path))
    monkeypatch.setattr(progress, "_pace", Pace(1e9))
    monkeypatch.setattr(telling, "LOOK_SECONDS", 0.01)
    rounds = prepare(tmp_path / "case", Case())
    rounds.work.mkdir()
    made = Made(engine=rounds.engine, rewards=[reward()], epochs=[epoch(1)])
    teller = Teller("shared", 5, Progress(), shows=False)
    teller(made)
    assert not [*tmp_path.glob("progress-*")]
    with telling.shown(teller, rounds.work):
        state.note(rounds.work, StateRecord(rounds="key", made=made))
        while not (pages := [*tmp_path.glob("progress-shared-*/progress.html")]):
            pass
    assert "shared: round 1 of 5" in pages[0].read_text()
