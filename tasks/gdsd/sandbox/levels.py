"""Which isolation this system offers: found out once in a process, by starting a program at each level."""

import logging
import os
import sys
import threading
from functools import cache

from tasks.gdsd.errors import SandboxError
from tasks.gdsd.sandbox import users
from tasks.gdsd.sandbox.guest import answer
from tasks.gdsd.sandbox.host import Level, Limits, Route, Sandbox, StartError

logger = logging.getLogger(__name__)

LEVELS: tuple[Level, ...] = ("full", "none")  # the stronger one first
REMEDY = (
    "install bubblewrap (Debian: apt-get install bubblewrap) and allow user namespaces, which a pod's security context "
    "or sysctl may forbid; or, as root on a machine that holds nothing of value, accept by isolation 'none' that "
    "programs run without a sandbox"
)
EXPOSED = (
    "untrusted programs run WITHOUT A SANDBOX (isolation 'none'), since this system offers none (%s): they can read "
    "what every user of this machine can, write where every user may, see all processes and use the network; only "
    "their time, memory, processes and file size are limited"
)

_probing = threading.Lock()


def choose(least: Level) -> Route:
    """Returns a way to the strongest level that this system offers, and warns where that is no isolation.

    Raises:
        SandboxError: even the least accepted level is out of reach.
    """
    reasons: list[str] = []
    for level in LEVELS[: LEVELS.index(least) + 1]:
        route, reason = offered(level)
        if route is not None:
            if level == "none":
                _warn("; ".join(reasons))
            return route
        reasons.append(f"{level}: {reason}")
    raise SandboxError(
        f"isolation {least!r} is the least that is accepted for untrusted programs, but this system does not offer it "
        f"({'; '.join(reasons)}), so nothing was run; {REMEDY}"
    )


def offered(level: Level) -> tuple[Route | None, str]:
    """Returns a way to a level that has worked in this process, or None and why there is none."""
    with _probing:
        return _probe(level)


@cache
def _warn(reasons: str) -> None:
    """Says what is not kept out, once in a process."""
    logger.warning(EXPOSED, reasons)


@cache
def _probe(level: Level) -> tuple[Route | None, str]:
    if not sys.platform.startswith("linux"):
        return None, f"needs Linux, and this is {sys.platform}"
    root = os.geteuid() == 0 and users.span() is not None
    routes = [Route(level, privileged=True, drop=False)] if root else []
    if level == "full" or not root:
        routes.append(Route(level, privileged=False, drop=root))
    reasons: list[str] = []
    for route in routes:
        try:
            with Sandbox(answer, Limits(10, 256, 4, 1), route) as trial:
                trial.wait_until_ready()
            return route, ""
        except StartError as error:
            reasons.append(str(error))
    return None, ", then ".join(dict.fromkeys(reasons))
