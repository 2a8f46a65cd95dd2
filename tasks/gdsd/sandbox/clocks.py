"""How long the host waits for a sandbox: by the clock on the wall, or by what its programs have used.

A verdict must not depend on what else the machine does. So an answer is charged for processor time, and for time in
which it asked for none. Time in which it was ready to run and got no processor costs it nothing.
"""

import select
import socket
import time
from collections.abc import Sequence
from typing import Protocol

from tasks.gdsd.sandbox.gauge import Gauge

TICK = 0.25  # seconds from one look at the programs to the next; what ends sooner is not looked at
FREE, WALL = 5, 30  # the limits of time in which programs are free to run, and of all time, by that of processor time


class LateError(Exception):
    """A confined program did not answer until its deadline."""


class SpentError(Exception):
    """Confined programs have used the time that they had."""


class Clock(Protocol):
    """What ends a wait."""

    def wait(self, end: socket.socket, event: int) -> None:
        """Returns when an event of `select.poll` has come.

        Raises:
            LateError: it did not come in time.
            SpentError: the programs that should bring it about have used their time.
        """


class Deadline:
    """A moment, by the clock on the wall."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def wait(self, end: socket.socket, event: int) -> None:
        """Waits until the moment; see `Clock`."""
        if not _poller(end, event).poll(_milliseconds(self._end)):
            raise LateError


class Allowance:
    """The time of programs that take turns, from now on.

    It is spent when they have used `seconds` of processor time, all together. It is also spent when they were free to
    run for `FREE` times as long and have not answered: they slept, waited for each other, or hid what they used. Free
    is who asks for no processor, or to that share who gets one. Programs that others kept from a processor are late
    after `WALL` times as long, which says nothing of the programs.
    """

    def __init__(self, seconds: float, gauges: Sequence[Gauge]) -> None:
        now = time.monotonic()
        self._seconds, self._gauges = seconds, gauges
        self._end, self._next = now + WALL * seconds, now + TICK
        self._free = 0.0

    def wait(self, end: socket.socket, event: int) -> None:
        """Waits while there is time left; see `Clock`."""
        poller = _poller(end, event)
        if time.monotonic() >= self._next:
            self._look()  # the host itself took this time, so nobody is charged
        while not poller.poll(_milliseconds(self._next)):
            share = self._look()
            # They may have answered while the host was kept from a processor.
            if not poller.poll(0):
                self._free += TICK * share
            if self._free >= FREE * self._seconds:
                raise SpentError

    def _look(self) -> float:
        """The share of the time since the last look in which the programs were free; 0 where the kernel hides them."""
        looks = [gauge.look() for gauge in self._gauges]
        if sum(look.seconds for look in looks) >= self._seconds:
            raise SpentError
        now = time.monotonic()
        if now >= self._end:
            raise LateError
        self._next = now + TICK
        if any(look.ready for look in looks):
            return sum(look.processors for look in looks)
        return float(any(look.seen for look in looks))


def _poller(end: socket.socket, event: int) -> select.poll:
    poller = select.poll()
    poller.register(end, event)
    return poller


def _milliseconds(moment: float) -> float:
    return max(0.0, 1000 * (moment - time.monotonic()))
