"""What the processes of a sandbox do, as the kernel tells the host: no program can say anything else of itself."""

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

TICKS = os.sysconf("SC_CLK_TCK")  # a second, of the times in /proc/PID/stat
STATE, OWN, REAPED = slice(0, 1), slice(11, 15), slice(13, 15)  # fields of that file, behind the name
HALF = 0.5  # of a processor


class Look(NamedTuple):
    """What one look at a sandbox finds."""

    seconds: float  # of processor time so far, of all its programs together
    seen: bool  # there are programs, and the kernel shows them
    kept_waiting: bool  # threads are ready to run, and together they get less than half a processor


class Gauge:
    """Looks at the programs of one sandbox: at all that descends from its watchdog."""

    def __init__(self, pid: int, wrapped: bool) -> None:
        self._pid = pid  # of the watchdog, or of bubblewrap, whose only child it is
        self._wrapped = wrapped
        self._times: dict[int, tuple[int, int]] = {}  # of each thread at the last look

    def look(self) -> Look:
        """Returns what there is to see since the last look."""
        top = next(iter(_children(self._pid)), 0) if self._wrapped else self._pid
        ticks = sum(map(int, _stat(f"/proc/{top}/stat")[REAPED]))  # of orphans; the watchdog's own time is ours
        times: dict[int, tuple[int, int]] = {}
        seen, ready, processors = False, False, 0.0
        for pid in _descendants(top):
            fields = _stat(f"/proc/{pid}/stat")
            ticks += sum(map(int, fields[OWN]))
            seen |= bool(fields)
            for thread in _threads(pid):
                times[thread] = ran, waited = _times(pid, thread)
                if _stat(f"/proc/{pid}/task/{thread}/stat")[STATE] == [b"R"]:
                    before = self._times.get(thread, (0, 0))
                    ran, waited = ran - before[0], waited - before[1]
                    ready = True
                    processors += ran / (ran + waited) if ran > 0 else 0.0
        self._times = times
        return Look(ticks / TICKS, seen, ready and processors < HALF)


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


def _times(pid: int, thread: int) -> tuple[int, int]:
    """Nanoseconds for which a thread ran, and for which it was ready and had no processor; 0 where nobody counts."""
    ran, waited, *_ = map(int, _read(f"/proc/{pid}/task/{thread}/schedstat").split() or (0, 0))
    return ran, waited


def _stat(path: str) -> list[bytes]:
    """The fields behind the name, which may hold anything; none where the process has ended."""
    return _read(path).rpartition(b")")[2].split()


def _read(path: str) -> bytes:
    with suppress(OSError), open(path, "rb", buffering=0) as file:
        return file.read()
    return b""
