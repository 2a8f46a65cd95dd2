"""Processes that end with the one that started them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import multiprocessing, os, sys, time
from tasks.gdsd.sandbox import lifeline

def work():
    lifeline.hold_on_to(multiprocessing.parent_process().sentinel)
    os.write(1, b'%d\\n' % os.getpid())  # at once, since two write
    9 ** (10 ** 9)  # minutes in which Python runs nothing else

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    context.Process(target=work).start()
    context.Process(target=work).start()
    time.sleep(3600)
"""


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_processes_end_with_a_killed_one_and_not_by_themselves(method: str, tmp_path: Path) -> None:
    """If it fails, processes that share an epoch live on for an hour when their run is killed, or die of Ctrl-C."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    with subprocess.Popen(
        [sys.executable, program, method],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as run:
        try:
            assert run.stdout is not None
            workers = [int(run.stdout.readline()) for _ in range(2)]
            for worker in workers:
                os.kill(worker, signal.SIGINT)
            time.sleep(0.2)
            assert all(map(lives, workers))
            run.kill()
            run.wait()
            until = time.monotonic() + 60
            while any(map(lives, workers)) and time.monotonic() < until:
                time.sleep(0.01)
            assert not any(map(lives, workers))
            assert run.stdout.read() == ""  # and so nobody else holds it: the server of processes is gone too
        finally:
            run.kill()


def test_one_that_comes_late_ends_at_once() -> None:
    """If it fails, a process whose starter dies before it has looked lives on."""
    theirs, ours = os.pipe()
    program = "import sys; from tasks.gdsd.sandbox import lifeline; lifeline.hold_on_to(int(sys.argv[1])); print('on')"
    os.close(ours)
    done = subprocess.run(
        [sys.executable, "-c", program, str(theirs)], cwd=ROOT, pass_fds=[theirs], stdout=subprocess.PIPE, text=True
    )
    os.close(theirs)
    assert done.returncode == -signal.SIGKILL and not done.stdout


def lives(process: int) -> bool:
    """Whether a process is there, and not only not yet reaped, when it has no command line."""
    try:
        return bool(Path(f"/proc/{process}/cmdline").read_bytes())
    except OSError:
        return False
