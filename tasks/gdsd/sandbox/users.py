"""User ids that root gives to untrusted programs, one to each, so that the kernel counts its processes alone."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

FIRST, LAST = 1 << 30, 1 << 31  # far from people and services
NOBODY = 65534

taken: set[int] = set()  # by the sandboxes of this process


@cache
def span() -> tuple[int, int] | None:
    """Returns the ids that root may give away, without the last: a high range, or the upper half of a container's.

    None where a container maps too few.
    """
    lines = Path("/proc/self/uid_map").read_text().splitlines()
    first, count = max(((int(start), int(size)) for start, _, size in map(str.split, lines)), key=lambda two: two[1])
    if first <= FIRST and first + count >= LAST:
        return FIRST, LAST
    return (first + count // 2, first + count) if count > 10_000 else None


@contextmanager
def lent() -> Iterator[int]:
    """Lends an id that no other sandbox of this process has."""
    least, most = span() or (FIRST, LAST)
    uid = NOBODY
    while uid == NOBODY or uid in taken:
        uid = random.SystemRandom().randrange(least, most - 1)
    taken.add(uid)
    try:
        yield uid
    finally:
        taken.discard(uid)
