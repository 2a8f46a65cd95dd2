"""Attempts at a distillation epoch on a cluster: each goes on from Flyte's checkpoint of the one before it."""

import logging
import threading
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgpack
import pytest
from flytekit.core.checkpointer import SyncCheckpoint
from flytekit.exceptions.system import FlyteDownloadDataException
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile

from tasks import distill
from tasks.flyte import attempts
from tasks.gdsd.denoiser import checkpoint
from tasks.gdsd.distill import machines
from tasks.gdsd.distill.epoch import Epoch
from tasks.gdsd.distill.resume import FILE
from tasks.gdsd.distill.updates import Updates
from tasks.gdsd.files import digest
from tests.gdsd import interims
from tests.gdsd.epochs import computed, configured
from tests.tasks.pods import Attempt, attempt


def trained(found: Attempt) -> tuple[str, object]:
    """The digest of a policy, and all that its epoch says of itself but times."""
    assert found.error is None and found.outputs is not None, found.error
    stats = msgpack.loads(found.outputs.literals["stats"].scalar.binary.value)
    times = ("seconds", "ended_unix_seconds")
    folder = Path(found.outputs.literals["checkpoint"].scalar.blob.uri)
    return digest(folder), {key: value for key, value in stats.items() if key not in times}


def given(epoch: Epoch) -> dict[str, object]:
    """The inputs of the task that does an epoch."""
    return {
        "policy": FlyteDirectory(str(epoch.policy)),
        "base": FlyteDirectory(str(epoch.policy)),
        "rewarded": FlyteFile(str(epoch.rewarded)),
        "config": epoch.config,
        "group_size": epoch.group_size,
        "round": epoch.round_index,
        "seed": epoch.seed,
    }


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, object]:
    return given(interims.epoch(tmp_path, computed(configured({"trust_region": 0.05}), save_minutes=0.0)))


class Machine:
    """What an attempt runs on: it is taken away before an update, or before the policy is loaded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.updates, self.last, self.loads = 0, 99, True
        take, load = Updates.take, checkpoint.load

        def take_unless_away(updates: Updates, rate: float) -> object:
            if self.updates == self.last:
                raise ConnectionResetError("the machine is taken away")
            self.updates += 1
            return take(updates, rate)

        def load_unless_away(*given: Any, **named: Any) -> checkpoint.PolicyState:
            if not self.loads:
                raise ConnectionResetError("the machine is taken away")
            return load(*given, **named)

        monkeypatch.setattr(Updates, "take", take_unless_away)
        monkeypatch.setattr(checkpoint, "load", load_unless_away)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_an_attempt_goes_on_from_the_one_before(tmp_path: Path, inputs: dict[str, object], machine: Machine) -> None:
    """If it fails, an epoch on machines that may be taken away starts afresh each time, or ends as another policy."""

    def run(name: str, before: str | None, last: int = 99, loads: bool = True) -> Attempt:
        machine.updates, machine.last, machine.loads = 0, last, loads
        return attempt(distill.distill_epoch, tmp_path / name, None if before is None else tmp_path / before, **inputs)

    expected = trained(run("undisturbed", None))
    assert machine.updates == 3
    assert run("first", None, last=0).retried, "before there is any state"
    assert run("second", "first", last=2).retried
    assert [path.name for path in (tmp_path / "second" / "checkpoint").iterdir()] == [FILE]
    assert run("third", "second", loads=False).retried, "before the policy is loaded; it hands on what it was given"
    assert run("fourth", "third", last=0).retried, "before there is a new state"
    assert trained(run("fifth", "fourth")) == expected
    assert machine.updates == 1, "and only the last update was still to be made"


@pytest.mark.parametrize("number", [0, 1])
def test_one_of_several_machines_hands_the_state_on(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, an epoch of several machines begins anew when they are taken away twice, or each of them uploads."""
    shared = SimpleNamespace(number=number, preparing=nullcontext)
    monkeypatch.setenv("PET_RDZV_ENDPOINT", "127.0.0.1:1")
    monkeypatch.setattr(machines, "Machines", lambda *_: shared)

    def taken_away(*_: object) -> None:
        raise ConnectionResetError("the machines are taken away")

    monkeypatch.setattr("tasks.gdsd.distill.epoch.train", taken_away)
    left = tmp_path / "first" / "checkpoint" / FILE
    left.parent.mkdir(parents=True)
    left.write_bytes(b"state")
    inputs = given(interims.epoch(tmp_path, computed(nodes=2)))
    assert attempt(distill.distill_epoch_on_nodes, tmp_path / "second", tmp_path / "first", **inputs).retried
    kept = tmp_path / "second" / "checkpoint" / FILE
    assert kept.exists() == (number == 0) and (number == 1 or kept.read_bytes() == b"state")


def elsewhere(*_: object) -> None:
    raise machines.ElsewhereError("machine 2 of 2 has what came of the work")


def test_a_store_that_fails_for_a_moment_costs_no_state(
    tmp_path: Path,
    inputs: dict[str, object],
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """flytekit reports a lost connection as it reports that nothing is there; taking it for that costs the epoch."""
    machine.last = 2
    assert attempt(distill.distill_epoch, tmp_path / "first", None, **inputs).retried
    machine.last = 99
    restore, failures = SyncCheckpoint.restore, [2]

    def fails_at_first(self: SyncCheckpoint) -> Path | None:
        if failures[0]:
            failures[0] -= 1
            raise FlyteDownloadDataException("the connection is lost")
        return restore(self)

    monkeypatch.setattr(SyncCheckpoint, "restore", fails_at_first)
    monkeypatch.setattr(attempts, "PATIENCE", (0.0, 0.0, 0.0))
    caplog.set_level("INFO")
    monkeypatch.setattr(logging.getLogger("tasks"), "propagate", True)
    trained(attempt(distill.distill_epoch, tmp_path / "second", tmp_path / "first", **inputs))
    assert failures == [0] and "got to update 2; going on" in caplog.text


@pytest.mark.parametrize("name", ["outputs.pb", "error-1a2b.pb"])
def test_a_machine_without_a_result_stays_until_another_has_stored_its_own(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, the operator calls the job done and kills the pod that is still storing the epoch's policy."""
    epoch = interims.epoch(tmp_path, computed(nodes=2))
    monkeypatch.setenv("PET_RDZV_ENDPOINT", "127.0.0.1:1")
    monkeypatch.setattr(machines, "Machines", elsewhere)
    result = tmp_path / "pod" / "outputs" / name
    store = threading.Timer(0.3, lambda: result.write_bytes(b""))
    store.start()
    found = attempt(distill.distill_epoch_on_nodes, tmp_path / "pod", **given(epoch))
    assert result.exists() and found.error is None
    store.join()


def test_a_machine_without_a_result_waits_for_none_that_never_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, a machine that is lost at the very end keeps all others until the task's time is up."""
    epoch = interims.epoch(tmp_path, computed(nodes=2))
    monkeypatch.setenv("PET_RDZV_ENDPOINT", "127.0.0.1:1")
    monkeypatch.setattr(machines, "Machines", elsewhere)
    monkeypatch.setattr(distill, "STORE_SECONDS", 0)
    found = attempt(distill.distill_epoch_on_nodes, tmp_path / "pod", **given(epoch))
    assert found.retried and "VanishedError" in found.error.message
