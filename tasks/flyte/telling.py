"""What rounds that stay in one task say and show, while they are made."""

import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from tasks.gdsd.records import Made, Progress

LOOK_SECONDS = 5.0  # between two looks at what other processes have written down


@dataclass(frozen=True)
class Teller:
    """Says and shows where a run is, in the process that makes its rounds: also in another than the task's own."""

    name: str
    rounds: int
    before: Progress  # what the run has recorded before these rounds
    shows: bool  # also on the page; in a pod, only the task's own process can

    def __call__(self, made: Made) -> None:
        """Tells of the last round of those that were made."""
        _pages().say_round(self.name, self.rounds, self.run(made))
        if self.shows:
            self.show(made)

    def show(self, made: Made) -> None:
        """Shows the rounds on the page."""
        _pages().show_rounds(self.name, self.rounds, self.run(made))

    def run(self, made: Made) -> Progress:
        """Returns what the run has recorded by now."""
        return Progress(
            drifts=[*self.before.drifts, *made.drifts],
            rewards=[*self.before.rewards, *made.rewards],
            epochs=[*self.before.epochs, *made.epochs],
            validations=self.before.validations,
        )


class _Pages(Protocol):
    def say_round(self, name: str, rounds: int, run: Progress) -> None: ...
    def show_rounds(self, name: str, rounds: int, run: Progress) -> None: ...


def _pages() -> _Pages:
    """Returns the stage that shows a run: by its name, so that what a page looks like is no part of the cache's key."""
    return cast(_Pages, importlib.import_module("tasks.progress"))


@contextmanager
def shown(teller: Teller, work: Path) -> Iterator[None]:
    """Shows the rounds that other processes write down in a folder, while they do so."""
    ended = threading.Event()

    def follow() -> None:
        from tasks.gdsd.resident import state

        seen = 0
        while not ended.wait(LOOK_SECONDS):
            record = state.read(work)
            if record is not None and len(record.made.epochs) > seen:
                seen = len(record.made.epochs)
                teller.show(record.made)

    follower = threading.Thread(target=copy_context().run, args=[follow], daemon=True)  # a Deck is of Flyte's context
    if teller.shows:
        yield
        return
    follower.start()
    try:
        yield
    finally:
        ended.set()
        follower.join()
