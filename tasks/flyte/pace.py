"""Keeps what is done beside a local run to a share of its time, since there nothing is beside anything."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Pace:
    """Says when it is time again for something that may take a share of a process's time."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._next = 0.0

    def is_time(self) -> bool:
        """Whether enough time has passed since it was done last; at first it is time."""
        return time.monotonic() >= self._next

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Measures how long it takes, also where it fails."""
        began = time.monotonic()
        try:
            yield
        finally:
            ended = time.monotonic()
            self._next = ended + (ended - began) / self._share
