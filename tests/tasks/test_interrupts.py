"""What a signal does to a run, whatever the run is doing."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.flyte import interrupts

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import pathlib, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from tasks.flyte import interrupts
interrupts.handle(lambda: print("forced", flush=True))

def wait():
    print("ready", flush=True)
    time.sleep(600)

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
    else:
        Deaf()
        time.sleep(600)
finally:
    print("in order", flush=True)
"""


# what the run is doing: (signals, what it does before it ends)
CASES = {
    "busy": ([signal.SIGTERM], ["in order"]),
    "with others": ([signal.SIGINT], ["forced"]),
    "deaf": ([signal.SIGHUP, signal.SIGINT], ["forced"]),
}


@pytest.mark.parametrize("doing", CASES)
def test_a_signal_ends_a_run(doing: str) -> None:
    """If it fails, Ctrl-C is lost, waits for an hour of work, or ends in a traceback."""
    signals, before = CASES[doing]
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, doing], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None and run.stderr is not None and run.stdout.readline() == "ready\n"
        said = ""
        for number in signals:
            run.send_signal(number)
            while interrupts.SAID.decode() not in said:  # else the kernel may deliver the second one first
                said += run.stderr.readline()
        assert run.wait(60) == 128 + signals[0]
        assert run.stdout.read().split("\n")[:-1] == before
        said += run.stderr.read()
        assert said.count(interrupts.SAID.decode()) == 1 and ("Traceback" in said) == (doing == "deaf")


def test_what_is_ignored_stays_ignored() -> None:
    """If it fails, `nohup pyflyte run` ends with its terminal."""
    program = (
        "import os, signal; from tasks.flyte import interrupts\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN); interrupts.handle(print); os.kill(os.getpid(), signal.SIGHUP)\n"
        "print('on')"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0 and done.stdout == "on\n"
