"""What the sandbox's tests share: one level at a time, and what is left of a sandbox."""

from pathlib import Path

import pytest

from tasks.gdsd.sandbox import levels
from tasks.gdsd.sandbox.host import Level, Route


def way(level: Level) -> Route:
    """Returns this system's way to a level, and skips the test where there is none."""
    route, reason = levels.offered(level)
    if route is None:
        pytest.skip(f"this system does not offer the level {level!r}: {reason}")
    return route


def only(level: Level, patch: pytest.MonkeyPatch) -> None:
    """Makes answers run at a level, even where the system offers a stronger one."""
    route = way(level)
    patch.setattr(levels, "choose", lambda least: route)


def left_over(memory_mib: int) -> list[str]:
    """The processes of sandboxes with such a limit of memory, by their command lines."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if str(memory_mib << 20) in words:
            found.append(" ".join(words)[-200:])
    return found
