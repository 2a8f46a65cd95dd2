"""What a signal does to a run, whatever the run is doing."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SAID = "interrupted, as told\n"
PROGRAM = """
import atexit, os, signal, sys, time
from concurrent.futures import ThreadPoolExecutor
from tasks.flyte import interrupts

def wait():
    print("ready", flush=True)
    time.sleep(600)

if sys.argv[1] == "leaving":
    atexit.register(wait)
interrupts.handle(lambda: print("forced", flush=True), "interrupted, as told")

class Deaf:
    def __del__(self):  # where Python drops what a handler raises
        wait()

try:
    if sys.argv[1] == "busy":
        wait()
    elif sys.argv[1] == "with others":
        with ThreadPoolExecutor(1) as threads:  # which waits for its thread before it lets anything through
            threads.submit(time.sleep, 600)
            wait()
    elif sys.argv[1] == "copied":
        if (copy := os.fork()) == 0:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(600)
        assert os.waitpid(copy, 0)[1] == signal.SIGINT
        wait()
    elif sys.argv[1] == "deaf":
        Deaf()
        time.sleep(600)
finally:
    print("in order", flush=True)
"""


# what the run is doing: (signals, what it does before it ends)
CASES = {
    "busy": ([signal.SIGTERM], ["in order"]),
    "with others": ([signal.SIGINT], ["forced"]),
    "leaving": ([signal.SIGINT], ["forced"]),
    "copied": ([signal.SIGINT], ["in order"]),
    "deaf": ([signal.SIGHUP, signal.SIGINT], ["forced"]),
}
DROPPED = "Exception ignored"


@pytest.mark.parametrize("doing", CASES)
def test_a_signal_ends_a_run(doing: str) -> None:
    """If it fails, Ctrl-C is lost, waits for an hour of work, or ends in a traceback."""
    signals, before = CASES[doing]
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, doing], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None and run.stderr is not None and "ready\n" in iter(run.stdout.readline, "")
        said = ""
        for number in signals:
            run.send_signal(number)
            # else the second one may come first, or before the first is lost
            while SAID not in said or (doing == "deaf" and DROPPED not in said):
                line = run.stderr.readline()
                assert line, f"it ended, and said {said}"
                said += line
        assert run.wait(60) == 128 + signals[0]
        assert run.stdout.read().split("\n")[:-1] == before
        said += run.stderr.read()
        assert said.count(SAID) == 1
        assert "Traceback" not in said or doing == "deaf"  # which says what it drops, as far as it comes


def test_a_signal_ends_a_run_whose_lines_nobody_takes() -> None:
    """If it fails, a run behind a stopped terminal, or a pipe that is not read, hears no signal but SIGKILL."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "busy"], cwd=ROOT, stdout=subprocess.PIPE, stderr=writer, text=True
    ) as run:
        try:
            assert run.stdout is not None and run.stdout.readline() == "ready\n"
            run.send_signal(signal.SIGTERM)
            assert run.wait(60) == 128 + signal.SIGTERM
        finally:
            run.kill()
            os.close(reader)
            os.close(writer)


def test_what_is_ignored_stays_ignored() -> None:
    """If it fails, `nohup pyflyte run` ends with its terminal."""
    program = (
        "import os, signal; from tasks.flyte import interrupts\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN); interrupts.handle(print, '')\n"
        "os.kill(os.getpid(), signal.SIGHUP)\n"
        "print('on')"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0 and done.stdout == "on\n"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize(("command", "ignored"), [("pyflyte", False), ("pyflyte", True), ("pytest", False)])
def test_pyflyte_is_stopped_in_a_word_while_it_loads(command: str, ignored: bool, name: str, tmp_path: Path) -> None:
    """If it fails, Ctrl-C in a run's first seconds is a page of flytekit's code, or another command is changed."""
    shutil.copy(ROOT / ".ci/pyflyte.pth", tmp_path)
    before = f"signal.signal(signal.{name}, signal.SIG_IGN)" if ignored else "None"
    program = (
        f"import os, signal, site, sys; sys.argv[0] = '/bin/{command}'; {before}; site.addsitedir({str(tmp_path)!r})\n"
        f"try: os.kill(os.getpid(), signal.{name})\nfinally: print('cleaned')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    number = getattr(signal, name)
    if ignored:
        assert (done.returncode, done.stderr, done.stdout) == (0, "", "cleaned\n")
    elif command == "pyflyte":
        assert (done.returncode, done.stderr, done.stdout) == (128 + number, "stopped\n", "cleaned\n")
    else:
        assert done.returncode == -number and "stopped" not in done.stderr
