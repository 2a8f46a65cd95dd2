"""Machines that share an epoch: that they meet, agree on how it ended, and that one of them tells."""

import logging
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.elastic.agent.server.api import SimpleElasticAgent

from tasks.gdsd import tables
from tasks.gdsd.denoiser import checkpoint
from tasks.gdsd.distill import machines
from tasks.gdsd.distill.epoch import Epoch, train
from tasks.gdsd.distill.failures import FailureReport, Kind, ProcessError
from tasks.gdsd.distill.machines import ElsewhereError, Machines, Told, VanishedError, cause, speaker
from tasks.gdsd.errors import CheckpointError
from tests.gdsd.conftest import build
from tests.gdsd.epochs import GROUP, computed, rewarded, run, weights
from tests.gdsd.shared_epochs import Case, start_of, train_with_300_tokens
from tests.gdsd.shared_machines import (
    break_early,
    break_last,
    count_up,
    free_endpoint,
    launched,
    on_machines,
    refuse,
    refuse_last,
)


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines are threads here: each changes where its processes look for modules, and none waits for long."""
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(machines, "HEAR_SECONDS", 60)


def report(kind: Kind, story: str = "", seconds: float = 2.0) -> FailureReport:
    return FailureReport(kind=kind, error="KeyError", message="x", story=story, seconds=seconds)


FINE, FIRST = Told(), Told(first=True)
REFUSED, CRASHED = Told(failure=report("refusal")), Told(failure=report("crash", "late"))


@pytest.mark.parametrize(
    ("told", "tells"),
    [
        ([FINE, FIRST, FINE], 1),
        ([REFUSED, Told(first=True, failure=REFUSED.failure)], 1),  # the one that may have left evidence
        ([CRASHED, REFUSED], 1),  # it left the other alone
        ([CRASHED, FINE], None),
    ],
)
def test_one_machine_tells(told: list[Told], tells: int | None) -> None:
    """If it fails, an epoch's result or error is given twice, or by nobody, or hidden behind what followed from it."""
    assert speaker(told) == tells


def test_the_first_crash_is_the_cause() -> None:
    """If it fails, a person reads that a connection was lost, and not why."""
    assert cause([CRASHED, FINE, Told(failure=report("loss", "early", 1.0))]) == report(
        "loss", "machine 3 of 3: early", 1.0
    )


def test_processes_of_all_machines_work_together() -> None:
    """If it fails, machines train apart, or more than one of them has a result."""
    found = on_machines(2, launched(count_up, "all", 2))
    assert {type(one) for one in found} == {ElsewhereError, str}
    assert "all [0, 1, 2, 3]" in found


def test_an_error_that_all_find_is_told_once() -> None:
    """If it fails, a damaged checkpoint shows as a crash, or one of two pods seems to have gone through."""
    found = on_machines(2, launched(refuse, "damaged"))
    assert {type(one) for one in found} == {CheckpointError, ElsewhereError}


@pytest.mark.parametrize("work", [break_last, break_early])
def test_a_crash_on_one_machine_is_known_on_all(work: Callable[[str], str]) -> None:
    """If it fails, GPUs wait an hour for a machine whose own GPU failed, or report no more than a lost connection.

    The machines may have met, so that a connection breaks, or nothing else shows the crash.
    """
    found = on_machines(2, launched(work, "the cause"))
    assert [type(error) for error in found] == [ProcessError] * 2 and str(found[0]) == str(found[1])
    assert "the cause" in str(found[0]).splitlines()[-1]


def test_an_error_that_one_machine_finds_ends_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, GPUs wait an hour for a machine whose download of the policy is damaged, or nobody reads of it."""
    monkeypatch.setattr(machines, "GRACE_SECONDS", 1)
    # The launcher of processes that are done waits five minutes for the others' before it says so.
    monkeypatch.setattr(SimpleElasticAgent, "_exit_barrier", lambda agent: None)
    found = on_machines(2, launched(refuse_last, "damaged"))
    place = [type(one) for one in found].index(CheckpointError)
    waited = found[1 - place]
    assert str(found[place]) == "damaged"
    assert isinstance(waited, ElsewhereError) and f"machine {place + 1} of 2" in str(waited)


def test_an_error_that_all_find_leaves_time_for_evidence() -> None:
    """If it fails, the first process is ended while it writes the weights and batch of updates that are not finite."""
    ended = threading.Event()

    def find(machines: Machines) -> object:
        if machines.number == 0:
            with machines.listening(ended.set):
                ended.wait(2)
        machines.tell(REFUSED)
        return ended.is_set()

    assert on_machines(2, find) == [False, False]


def test_a_machine_that_cannot_begin_ends_the_others() -> None:
    """If it fails, a failed download on one machine has the others wait for half an hour."""

    def prepare(machines: Machines) -> None:
        with machines.preparing():
            if machines.number == 1:
                raise ValueError("no such file")

    first, second = on_machines(2, prepare)
    assert isinstance(first, ElsewhereError) and "machine 2 of 2" in str(first) and isinstance(second, ValueError)


def test_a_machine_that_is_taken_away_ends_the_others() -> None:
    """If it fails, GPUs wait for twenty minutes whenever a spot machine of an epoch is taken away."""

    def end(machines: Machines) -> object:
        return machines.leave() if machines.number == 1 else machines.tell(FIRST)

    stays, leaves = on_machines(2, end)
    assert isinstance(stays, VanishedError) and leaves is None


def test_a_machine_that_does_not_come_is_named_in_time() -> None:
    """If it fails, GPUs are held for a machine that the cluster does not have."""
    with pytest.raises(VanishedError, match=r"2 machines share this work.*distill\.compute\.nodes"):
        Machines(free_endpoint(), 2, 1)


def test_a_machine_waits_for_the_name_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a pod ends whose neighbour is not known to the cluster's name service yet, with the whole job."""
    known, endpoint = socket.getaddrinfo, free_endpoint()
    asked: list[str] = []

    def ask(host: str, *given: Any, **named: Any) -> Any:
        asked.append(host)
        if len(asked) == 1:
            raise socket.gaierror("name or service not known")
        return known(host, *given, **named)

    monkeypatch.setattr(socket, "getaddrinfo", ask)
    assert Machines(endpoint, 1, 30).address == "127.0.0.1"


@pytest.mark.whole
def test_machines_start_again_together_where_memory_runs_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If it fails, one machine starts again with smaller micro-batches and waits for ever for the other.

    The last process has memory for 300 tokens at a time.
    """
    monkeypatch.setattr("tasks.gdsd.distill.epoch._train", train_with_300_tokens)
    policy = checkpoint.save(tmp_path / "policy", start_of(Case()))
    table = tables.write(rewarded(build()), tables.REWARDED, tmp_path / "rewarded.parquet")
    config = computed(nodes=2, sharding="fsdp", micro_batch_tokens=1100)

    def share(machines: Machines) -> object:
        own = tmp_path / f"{machines.number}"
        own.mkdir()
        return train(Epoch(policy, None, table, config, GROUP, 0, 7, own / "trained", own / "evidence"), machines)

    with caplog.at_level(logging.WARNING):
        found = on_machines(2, share)
    said = [record.message for record in caplog.records if record.name == "tasks.gdsd.distill.epoch"]
    assert said == ["400 tokens do not fit the memory; starting again with micro-batches of 200"] * 2
    (place,) = tmp_path.glob("*/trained")
    assert isinstance(found[1 - int(place.parent.name)], ElsewhereError)
    expected, _ = run(start_of(Case()), rewarded(build()))
    trained = checkpoint.load(place, torch.device("cpu"))
    torch.testing.assert_close(weights(trained), weights(expected), rtol=0, atol=1e-5)
