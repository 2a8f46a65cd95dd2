"""What the processes of a sandbox do, as the kernel tells the host: no program can say anything else of itself."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

TICKS = os.sysconf("SC_CLK_TCK")  # a second, of the times in /proc/PID/stat
STATE, OWN, REAPED, BORN = 0, slice(11, 15), slice(13, 15), 19  # fields of that file, behind the name


class Look(NamedTuple):
    """What one look at a sandbox finds."""

    seconds: float  # of processor time so far, of all its programs together
    seen: bool  # there are programs, and the kernel shows them
    ready: bool  # a thread runs, or would if it had a processor
    processors: float  # that its threads had since the last look, on average


class Gauge:
    """Looks at the programs of one sandbox: at all that descends from its watchdog."""

    def __init__(self, pid: int, wrapped: bool) -> None:
        self._pid = pid  # of the watchdog, or of bubblewrap, whose only child it is
        self._wrapped = wrapped
        self._ran: dict[int, float] = {}  # seconds of each thread at the last look
        self._last = 0.0

    def look(self) -> Look:
        """Returns what there is to see."""
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        top = next(iter(_children(self._pid)), 0) if self._wrapped else self._pid
        ticks = sum(map(int, _stat(f"/proc/{top}/stat")[REAPED]))  # of orphans; the watchdog's own time is ours
        ran: dict[int, float] = {}
        seen, ready, processors = False, False, 0.0
        for pid in _descendants(top):
            ticks += sum(map(int, _stat(f"/proc/{pid}/stat")[OWN]))
            for thread in _threads(pid):
                if fields := _stat(f"/proc/{pid}/task/{thread}/stat"):
                    seen = True
                    ready |= fields[STATE] == b"R"
                    ran[thread] = _ran(pid, thread)
                    since = max(self._last, (int(fields[BORN]) + 1) / TICKS)  # at the latest: they are whole ticks
                    more = ran[thread] - self._ran.get(thread, 0.0)
                    processors += more / max(more, now - since) if more > 0 else 0.0
        self._ran, self._last = ran, now
        return Look(ticks / TICKS, seen, ready, processors)


def _descendants(pid: int) -> Iterator[int]:
    found = _children(pid)
    while found:
        child = found.pop()
        yield child
        found += _children(child)


def _children(pid: int) -> list[int]:
    return [int(child) for thread in _threads(pid) for child in _read(f"/proc/{pid}/task/{thread}/children").split()]


def _threads(pid: int) -> list[int]:
    with suppress(OSError):  # it has ended
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    return []


def _ran(pid: int, thread: int) -> float:
    """Seconds for which a thread had a processor, to the nanosecond; 0 where the kernel does not say so."""
    return int(_read(f"/proc/{pid}/task/{thread}/schedstat").partition(b" ")[0] or 0) / 1e9


def _stat(path: str) -> list[bytes]:
    """The fields behind the name, which may hold anything; none where the process has ended."""
    return _read(path).rpartition(b")")[2].split()


def _read(path: str) -> bytes:
    with suppress(OSError), open(path, "rb", buffering=0) as file:
        return file.read()
    return b""
