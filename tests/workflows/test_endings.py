"""How a local run ends that is interrupted or killed: at once, in a line, with all its processes."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml

from tests.workflows.conftest import PYFLYTE, ROOT, SMOKE, environment

PATIENCE = 1200.0  # seconds, on a busy machine
LAUNCHED = 3  # a server of processes and two that share an epoch


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a short name, since sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="run-") as name:
        yield Path(name)


def until(is_so: Callable[[], bool], what: str) -> float:
    """Waits until something is so, and returns the seconds that it took."""
    began = time.monotonic()
    while not is_so():
        assert time.monotonic() < began + PATIENCE, what
        time.sleep(0.05)
    return time.monotonic() - began


def family(process: int) -> list[psutil.Process]:
    """All processes that a process has started, and those that these have."""
    try:
        return psutil.Process(process).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def server(process: int) -> list[psutil.Process]:
    """The server of the processes that share an epoch, as soon as it is there: it loads for seconds."""
    found = []
    for one in family(process):
        with suppress(psutil.Error):
            if "multiprocessing.forkserver" in " ".join(one.cmdline()):
                found.append(one)
    return found


def workers(process: int) -> list[psutil.Process]:
    """The processes that share an epoch, once all of them have begun to work: then they leave Ctrl-C to the run."""
    found = []
    for one in server(process):
        with suppress(psutil.Error, OSError):
            if ignores_interrupts(one):
                found.append(one)
    return found if len(found) >= LAUNCHED else []


def ignores_interrupts(process: psutil.Process) -> bool:
    (line,) = [line for line in Path(f"/proc/{process.pid}/status").read_text().split("\n") if "SigIgn" in line]
    return bool(int(line.split()[1], 16) >> (signal.SIGINT - 1) & 1)


@pytest.mark.whole
def test_a_run_ends_with_all_its_processes(place: Path) -> None:
    """If it fails, a run that is told to end does not, or ends in a traceback, or leaves processes or files behind.

    SIGKILL cannot be caught, and Ctrl-C goes to all processes of a terminal. The first run ends while its processes are
    being started. The others go on where it has ended: in the updates of the first round.
    """
    config = yaml.safe_load(SMOKE.read_text())
    config["distill"] = {"inner_steps": 1000, "compute": {"processes": 2}}
    config["rounds_per_task"] = 2
    file = place / "my config's.yaml"
    file.write_text(yaml.safe_dump(config))
    command = [str(PYFLYTE), "run", "workflows/gdsd.py", "train", "--config", str(file)]
    # make ends by the signal after its command has.
    by_make = ["make", "-o", ".venv/.ready", "train", f"CONFIG={file}"]
    ways = [
        (command, server, lambda run: run.send_signal(signal.SIGKILL), -signal.SIGKILL),
        (command, workers, lambda run: run.send_signal(signal.SIGKILL), -signal.SIGKILL),
        (by_make, workers, lambda run: os.killpg(run.pid, signal.SIGINT), -signal.SIGINT),
    ]
    for number, (words, begun, end, status) in enumerate(ways):
        log = place / f"{number}.log"
        with log.open("w") as output:
            run = subprocess.Popen(
                words, cwd=ROOT, env=environment(place), stdout=output, stderr=output, start_new_session=True
            )
        try:
            until(lambda run=run, begun=begun: bool(begun(run.pid)) or run.poll() is not None, "no epoch began")
            assert run.poll() is None, log.read_text()
            started = family(run.pid)
            end(run)
            assert run.wait(PATIENCE) == status, log.read_text()
            until(lambda started=started: not any(map(lives, started)), f"{started} live on after {status}")
        finally:
            for one in family(run.pid):
                one.kill()
            run.kill()
        said = log.read_text()
        assert "Traceback" not in said and ("base policy" in said) == (number == 0), said
        killed = status == -signal.SIGKILL
        assert said.count("interrupted; the same command goes on from here") == (not killed), said
        left = [path for path in (place / "tmp").iterdir() if not path.name.startswith("torchinductor_uid_")]
        assert bool(left) == killed, left


def lives(process: psutil.Process) -> bool:
    """Whether a process is there, and not only not yet reaped."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
