"""What the sandbox's tests share: one level at a time, and what is left of a sandbox."""

from pathlib import Path

import pytest

from tasks.gdsd.sandbox import host


def unavailable(level: host.Level) -> str:
    """Why this system does not offer a level; empty if it does."""
    route, reason = host.offered(level)
    return "" if route else f"this system does not offer the level {level!r}: {reason}"


def only(level: host.Level, patch: pytest.MonkeyPatch) -> None:
    """Makes the sandbox use a level, even where it offers a stronger one."""
    route, _ = host.offered(level)
    assert route is not None
    patch.setattr(host, "choose", lambda least: route)


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
