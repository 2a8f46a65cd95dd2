"""What a person sees on a terminal and in a file: log lines and progress bars together."""

import io
import logging
import sys
from collections.abc import Iterator

import pytest
from flytekit.clis.sdk_in_container.run import RunLevelParams
from rich_click import Command, Context
from tqdm import std, tqdm

from tasks.flyte.console import runs_here, speak
from tasks.gdsd.domains.base import shown


class Terminal(io.StringIO):
    """A terminal that keeps what it is sent."""

    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        """The lines as they stand on the screen: what follows a return stands over what was there."""
        shown = []
        for line in self.getvalue().split("\n"):
            cells: list[str] = []
            for part in line.split("\r"):
                cells[: len(part)] = part
            shown.append("".join(cells).rstrip())
        return shown


@pytest.fixture
def project() -> Iterator[logging.Logger]:
    """The project's logger as a new process has it."""
    logger = logging.getLogger("tasks")
    before = logger.handlers[:], logger.propagate
    logger.handlers, logger.propagate = [], True  # else pytest adds handlers of its own
    yield logger
    logger.handlers, logger.propagate = before


def test_only_a_local_run_is_one() -> None:
    """If it fails, a command that only waits for a cluster says what is untrue of it, or keeps data from cleaning."""
    assert not runs_here()
    for remote in (True, False):
        with Context(Command("train"), obj=RunLevelParams(remote=remote)):
            assert runs_here() is not remote
    with Context(Command("register")):
        assert not runs_here()


def test_a_log_line_stands_above_a_bar(project: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, the line of a round is torn by the bar of the next."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    speak()
    with tqdm(total=3, desc="rollouts", file=terminal, disable=None, leave=False, mininterval=0, ncols=60) as bar:
        bar.update(1)
        project.info("round 1 of 2: reward 0.5")
        bar.update(1)
    said = [line for line in terminal.lines() if "round 1" in line]
    assert len(said) == 1 and said[0].endswith(" round 1 of 2: reward 0.5") and "rollouts" not in said[0]
    assert "rollouts" in terminal.getvalue() and "rollouts" not in terminal.lines()[-1]


def test_a_file_has_lines_only(project: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, the log of a run on a cluster, or of `pyflyte run > log`, is full of bars."""
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    speak()
    assert list(shown(iter([1, 2]), 2)) == [1, 2]
    for _ in tqdm(range(3), desc="rollouts", file=log, disable=None, mininterval=0):
        project.info("a line")
    assert [line[9:] for line in log.getvalue().splitlines()] == ["a line"] * 3


def test_verdicts_that_take_long_have_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a minute of running code looks like a run that hangs, or each quick table flashes a bar."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    list(shown(range(1000), 1000))
    assert "verifying" not in terminal.getvalue()
    seconds = iter(range(0, 10_000, 2))
    monkeypatch.setattr(std, "time", lambda: float(next(seconds)))
    list(shown(range(10), 10))
    assert "verifying" in terminal.getvalue()
