"""Time: what an answer used decides, and not what else the machine does."""

import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from select import POLLIN

import pytest

from tasks.gdsd.domains.base import Answer, Verdict
from tasks.gdsd.domains.code import Code, CodeConfig, Ran
from tasks.gdsd.sandbox import clocks, levels
from tasks.gdsd.sandbox.clocks import Allowance, Deadline, LateError, SpentError
from tasks.gdsd.sandbox.gauge import Gauge, Look
from tasks.gdsd.sandbox.guest import answer, wire
from tasks.gdsd.sandbox.host import Level, Limits, Sandbox
from tests.gdsd.sandbox.sandboxes import only, way

BURNERS = 8
LEVEL = pytest.mark.parametrize("level", levels.LEVELS)
CALLS = Code().read({"problem": "x", "tests": ["assert f(1) == 1", "assert f(2) == 2"]})
CASES = Code().read({"problem": "x", "cases": [{"stdin": "1", "stdout": "1"}, {"stdin": "2", "stdout": "2"}]})
RIGHT, WRONG = Verdict({"tests": 1.0, "format": 1.0}, True), Verdict({"tests": 0.0, "format": 1.0}, False)
UNJUDGED = Verdict({"tests": None, "format": None}, None)
WORK = "import time\ndef work(seconds):\n    while time.process_time() < seconds: pass\n"


def fenced(problem: tuple[str, str], source: str) -> Answer:
    return Answer(*problem, f"```python\n{source}\n```")


@contextmanager
def busy() -> Iterator[None]:
    """One processor, for this thread and what it starts, and others who always want it, too."""
    allowed = os.sched_getaffinity(0)
    with ExitStack() as stack:
        stack.callback(os.sched_setaffinity, 0, allowed)
        os.sched_setaffinity(0, {min(allowed)})
        for _ in range(BURNERS):
            command = [sys.executable, "-c", "while True: pass"]
            burner = stack.enter_context(subprocess.Popen(command, start_new_session=True))  # a share of its own
            stack.callback(burner.kill)
        yield


@pytest.mark.parametrize("level", ["full", pytest.param("none", marks=pytest.mark.whole)])
def test_a_busy_machine_makes_no_answer_wrong(level: Level, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, right answers are punished where others use the machine, or wrong ones are spared.

    With 8 others and up to 7 of its own on one processor, an answer gets less than a tenth of it.
    """
    only(level, monkeypatch)
    items = [
        (CALLS, f"{WORK}def f(x): work(0.3 * x); return x", RIGHT),
        (CASES, f"{WORK}work(0.3)\nprint(input())", RIGHT),
        (CALLS, f"{WORK}def f(x): work(1000); return x", WRONG),
        (CALLS, "import time\ndef f(x): time.sleep(1000); return x", WRONG),
    ]
    code = Code(CodeConfig(seconds=1, workers=len(items)))
    with busy():
        verdicts = code.verify_all([fenced(problem, source) for problem, source, _ in items])
    assert verdicts == [wanted for *_, wanted in items]


FORKS = (
    WORK
    + """
import os
def f():
    for _ in range(4):
        if os.fork() == 0:
            {orphan}
            time.sleep(0.05)
            work(0.1)
            os._exit(0)
        {wait}
    return 1
"""
)


@LEVEL
@pytest.mark.parametrize(
    ("orphan", "wait"), [("pass", "os.wait()"), ("if os.fork(): os._exit(0)", "os.wait()")], ids=["children", "orphans"]
)
def test_the_time_of_all_processes_counts(level: Level, orphan: str, wait: str) -> None:
    """If it fails, an answer multiplies its time by the number of its processes."""
    clock = Deadline(120.0)
    with Sandbox(answer, Limits(10, 256, 8, 1), way(level)) as side:
        side.wait_until_ready()
        source = FORKS.format(orphan=orphan, wait=wait)
        side.send(json.dumps({"blocks": [source], "prefix": "", "entry_point": "f"}).encode(), clock)
        assert side.receive(clock, 1) == b"1"
        assert side.gauge.look().seconds < 0.3, "the start of the sandbox counts"
        side.send(wire.encode(((), {})), clock)
        assert wire.decode(side.receive(clock, 100)) == (True, 1)
        until = time.monotonic() + 120
        while (used := side.gauge.look().seconds) < 0.38 and time.monotonic() < until:
            time.sleep(0.01)
        assert 0.38 <= used < 1.0


class Scripted(Gauge):
    """A gauge that always shows the same."""

    def __init__(self, look: Look) -> None:
        self._look = look

    def look(self) -> Look:
        return self._look


@pytest.mark.parametrize(
    ("looks", "free", "wall", "error"),
    [
        ([Look(0.06, True, True, 0.0), Look(0.05, True, True, 0.0)], 1e9, 1e9, SpentError),
        ([Look(0.0, True, False, 0.0), Look(0.0, True, False, 0.0)], 0.1, 1e9, SpentError),
        ([Look(0.0, True, False, 0.0), Look(0.0, False, False, 0.0)], 0.1, 1e9, SpentError),
        ([Look(0.0, True, True, 0.2), Look(0.0, True, False, 0.1)], 0.1, 1e9, SpentError),
        ([Look(0.0, True, False, 0.0), Look(0.09, True, True, 0.0)], 1e-9, 1.0, LateError),
        ([Look(0.0, False, False, 0.0)], 1e-9, 1.0, LateError),
    ],
    ids=["used it up", "sleeps", "sleeps beside one that has ended", "hides its use", "kept waiting", "cannot be seen"],
)
def test_what_ends_a_wait(
    looks: list[Look], free: float, wall: float, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, what was kept from a processor counts as wrong, or what only slept is spared."""
    for name, value in (("TICK", 0.001), ("FREE", free), ("WALL", wall)):
        monkeypatch.setattr(clocks, name, value)
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(error):
        Allowance(0.1, [Scripted(look) for look in looks]).wait(ours, POLLIN)


def test_what_is_late_is_tried_again_alone(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """If it fails, a crowd of answers makes one of them null, or a busy machine makes it wrong."""
    at_work: list[str] = []
    seen: list[tuple[str, int]] = []

    def run(self: Code, task: object, blocks: list[str], route: object) -> Ran:
        (source,) = blocks
        at_work.append(source)
        time.sleep(0.05)
        beside = len(at_work) - 1
        again = source in [one for one, _ in seen]
        seen.append((source, beside))
        at_work.remove(source)
        if source.strip() == "never" or (source.strip() == "later" and not again):
            raise LateError
        return Ran(True, [True, True])

    monkeypatch.setattr(levels, "choose", lambda least: None)
    monkeypatch.setattr(Code, "_run", run)
    items = [fenced(CALLS, source) for source in ("never", "once", "later", "once more")]
    with caplog.at_level(logging.WARNING):
        verdicts = Code(CodeConfig(workers=4)).verify_all(items)
    assert verdicts == [UNJUDGED, RIGHT, RIGHT, RIGHT]
    assert [(source.strip(), beside) for source, beside in seen[4:]] == [("never", 0), ("later", 0)]
    (said,) = caplog.messages
    assert "1 of 4 answers" in said and "150 s" in said
