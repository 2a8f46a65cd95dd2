"""Stage `progress`: what a run says while it goes on: a line for each round, a page, and its concerns."""

import importlib
import logging
import os
import time
import uuid
from collections import deque
from functools import cache
from pathlib import Path

from flytekit import Deck

from tasks.flyte import folders
from tasks.flyte.console import speak
from tasks.flyte.local import in_pod, new_folder
from tasks.flyte.pace import Pace
from tasks.flyte.stage import cpu_task
from tasks.flyte.types import ProgressFile, stored_file
from tasks.gdsd.records import DriftStats, EpochStats, EvalReport, Progress, RewardStats

logger = logging.getLogger(__name__)

SHARE = 0.01  # of a local run's time, which drawing its page may take


@cpu_task(hours=0.5, retries=3, ignored=("reward", "rounds"))
def announce_round(reward: RewardStats, epoch: EpochStats, rounds: int) -> str:
    """Says in a line what a round came to, of `rounds` in all; nothing of one whose updates came from the cache."""
    from tasks.gdsd.run import progress

    line = progress.round_line(reward, epoch, rounds, list(_seconds))
    _seconds.append(progress.work(reward, epoch))
    logger.info(line)
    return line


@cpu_task(retries=3, ignored=("name", "rounds"), deck=True)
def report_progress(
    name: str,
    rounds: int,
    before: list[ProgressFile],
    drifts: list[DriftStats],
    rewards: list[RewardStats],
    epochs: list[EpochStats],
    validations: list[EvalReport],
) -> ProgressFile:
    """Adds rounds to what a run has recorded, and shows where it is: in the Deck, and as a page where it is local.

    Args:
        name: of the run, on the page
        rounds: that the run is to have
        before: what was recorded before, or nothing
        drifts, rewards, epochs: of the rounds that are new
        validations: the one before them, if there was one
    """
    from tasks.gdsd.run import progress

    speak()  # in a pod nothing else does
    earlier = Progress.read(before)
    after = Progress(
        drifts=[*earlier.drifts, *drifts],
        rewards=[*earlier.rewards, *rewards],
        epochs=[*earlier.epochs, *epochs],
        validations=[*earlier.validations, *validations],
    )
    _warn(name, earlier, after)
    if in_pod():  # elsewhere `announce_round` did
        for reward, epoch in zip(rewards, epochs, strict=True):
            logger.info(progress.round_line(reward, epoch, rounds))
    if in_pod() or _pace.is_time():
        _show(name, rounds, after)
    recorded = new_folder("recorded") / "progress.json.gz"
    after.write(recorded)
    return stored_file(recorded)


def say_round(name: str, rounds: int, run: Progress) -> None:
    """Says in a line what the last round of a run came to, while a task goes on with it.

    Args:
        name: of the run
        rounds: that the run is to have
        run: what it has recorded
    """
    from tasks.gdsd.run import progress

    pairs = zip(run.rewards[:-1], run.epochs[:-1], strict=True)
    before = [progress.work(reward, epoch) for reward, epoch in pairs]
    logger.info(progress.round_line(run.rewards[-1], run.epochs[-1], rounds, before))
    earlier = run.model_copy(update={"rewards": run.rewards[:-1], "epochs": run.epochs[:-1]})
    _warn(name, earlier, run)


def show_rounds(name: str, rounds: int, run: Progress) -> None:
    """Shows where a run is, if it is time for that, while a task goes on with it; see `say_round`."""
    if _pace.is_time():  # nothing is beside the rounds
        _show(name, rounds, run)
        if in_pod():
            Deck.publish()


def _warn(name: str, earlier: Progress, after: Progress) -> None:
    """Says what the last rounds of a run have shown to be wrong, once in a process."""
    from tasks.gdsd.run import health

    known = {concern.name for concern in health.concerns(earlier)}
    for concern in health.concerns(after):
        key = name, concern.name, concern.since
        if concern.name not in known and key not in _warned:
            _warned.add(key)
            logger.warning(" ".join(concern.said()))


def _show(name: str, rounds: int, run: Progress) -> None:
    """Shows where a run is: in the Deck, or as a page where it is local."""
    from tasks.gdsd import report
    from tasks.gdsd.run import health, progress

    importlib.import_module("matplotlib.figure")  # once, and so no part of what each drawing takes
    with _pace.timed():
        concerns = [concern.said() for concern in health.concerns(run)]
        times = progress.times(run, rounds)
        page = report.progress_page(name, rounds, run, time.time(), not in_pod(), concerns, times)
        if in_pod():
            Deck("Progress", page)
        else:
            file = _page(name, run)
            if _write(file, page):
                _say(logging.INFO, f"the run's page so far, which is drawn anew as it goes on: {file}")


def lead_to(report: Path, name: str, run: Progress) -> None:
    """Lets the page of a local run, if it has one, lead to the run's report."""
    from tasks.gdsd.report import ended_page

    file = _page(name, run)
    if file.is_file():
        _write(file, ended_page(name, os.path.relpath(report, file.parent)))


def _page(name: str, run: Progress) -> Path:
    from tasks.gdsd.run import progress

    return folders.home() / progress.folder(name, run) / "progress.html"


def _write(file: Path, page: str) -> bool:
    """Replaces a page at once, whenever a browser reads it or another run writes it; returns whether it could.

    A page that cannot be written is no reason to end a run.
    """
    new = file.with_suffix(f".{uuid.uuid4().hex}")
    try:
        folders.named(file.parent.name)
        try:
            new.write_text(page, "utf-8")
            os.replace(new, file)
        finally:
            new.unlink(missing_ok=True)
    except OSError as error:
        _say(logging.WARNING, f"{file}, the run's page, is not kept up to date: {error.strerror}")
        return False
    return True


@cache
def _say(level: int, words: str) -> None:
    """Logs something once, however often a page is drawn."""
    logger.log(level, words)


_pace = Pace(SHARE)
_seconds: deque[float] = deque(maxlen=5)  # of the rounds that were announced last
_warned: set[tuple[str, str, int]] = set()  # of runs of a name: the concern, and the round since which there is one
