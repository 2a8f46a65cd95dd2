"""Confines untrusted programs: what a policy writes, and tests that come with a data set.

Three levels, of which each holds what the next one holds:

- `full` (bubblewrap): no file of the host but read-only system folders and the interpreter, no /proc, no network.
- `processes` (util-linux' unshare): the same files, made by this project's own calls to the kernel; a /proc of its own.
- `limits`: limits of CPU time, memory, processes and file size, an empty temporary folder, no environment. The network
  and the host's files are within reach as far as an unprivileged user's are. For root only: as any other user a program
  would be the one that runs the pipeline, with that user's files and processes.

Folders of packages, the project and the user's own are empty where they lie in what is shown. At every level a process
group of its own, and the end of everything inside when the host lets go or dies. As root, each sandbox gets a user id
of its own, from a high range, so that the kernel counts its processes alone; another user's sandboxes are counted by
their user namespace (Linux 5.14). Which levels a system offers is found out by starting one of each.
"""

import contextlib
import glob
import os
import random
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Literal, NamedTuple, Self

from tasks.gdsd.errors import SandboxError
from tasks.gdsd.sandbox.guest import answer, kernel, launch, seccomp, start, tester, wire

Level = Literal["full", "processes", "limits"]
LEVELS: tuple[Level, ...] = ("full", "processes", "limits")
SHIPPED = (answer, kernel, launch, seccomp, start, tester, wire)  # named, so that their files travel to a cluster

SCRIPT = os.path.realpath(start.__file__)
ROOT = str(Path(SCRIPT).parents[4])  # of the project
START_SECONDS = 30.0  # for a sandbox to come up, on a busy machine
STOP_SECONDS = 10.0
FIRST_UID, LAST_UID = 1 << 30, 1 << 31  # far from people and services
NOBODY = 65534
DEVICES = ("null", "zero", "urandom")
MIB = 1 << 20
GUESTS = "/guest/tasks/gdsd/sandbox/guest"  # where the guests' folder lies at the level `full`
PYTHON_OPTIONS = ("-P", "-s", "-S")  # with an environment of our own: what -I does, but with a fixed hash seed
ENVIRONMENT = {"PYTHONHASHSEED": "0"}  # or the order of a set, and with it a verdict, would be chance
REMEDY = (
    "install bubblewrap (Debian: apt-get install bubblewrap) and allow user namespaces, which a pod's security context "
    "or sysctl may forbid, or accept weaker isolation by name: isolation 'processes' or, as root, 'limits'"
)
ONLY_ROOT = (
    "needs root, which gives each program a user of its own; as the user that runs the pipeline, a program could read "
    "its files, kill its processes and write another program's verdict"
)


class GoneError(Exception):
    """A confined program ended, closed its pipe, or wrote more than it may."""


class LateError(Exception):
    """A confined program did not answer until its deadline."""


class StartError(Exception):
    """A sandbox did not come up."""


@dataclass(frozen=True)
class Limits:
    """What one confined process may use."""

    seconds: int  # of CPU, for each of its processes
    memory_mib: int  # of address space, for each of its processes
    processes: int  # and threads, at a time
    file_mib: int  # a file; with namespaces, also the whole temporary folder


class Route(NamedTuple):
    """One way to a level."""

    level: Level
    privileged: bool  # root of the host makes the namespaces, and the program becomes a user of its own inside
    drop: bool  # root gives up its user before anything else


class Sandbox:
    """A confined process that serves one of the guests' roles, and a pair of sockets for each direction.

    Not pipes, which a process could open anew by /proc, and so keep its own end from ever being the last.

    Closing it, or leaving its `with` block, ends all that runs inside.

    Raises:
        StartError: it did not come up.
    """

    def __init__(self, role: ModuleType, limits: Limits, route: Route) -> None:
        self._pending = b""
        self._folder: str | None = None
        self._uid: int | None = None
        if route.level == "limits" and not route.privileged:
            raise StartError(ONLY_ROOT)
        with ExitStack() as ours, ExitStack() as theirs:
            try:
                if route.privileged or route.drop:
                    self._uid = _own_uid()
                    ours.callback(_taken.discard, self._uid)
                program = os.memfd_create("seccomp")
                theirs.callback(os.close, program)
                os.write(program, seccomp.instructions())
                os.lseek(program, 0, os.SEEK_SET)
                self._input, requests = _pair(ours, theirs, socket.SHUT_RD)
                self._output, replies = _pair(ours, theirs, socket.SHUT_WR)
                if route.level == "limits":
                    assert self._uid is not None
                    self._folder = tempfile.mkdtemp(prefix="gdsd-sandbox-")
                    ours.callback(_remove, self._folder)
                    os.chown(self._folder, self._uid, self._uid)
                ids: dict[str, object] = (
                    {"user": self._uid, "group": self._uid, "extra_groups": []} if route.drop else {}
                )
                self._process = subprocess.Popen(
                    [*_wrapper(route, limits, program), *_guest(role, limits, route, self._uid)],
                    stdin=requests,
                    stdout=replies,
                    stderr=subprocess.DEVNULL,
                    env=ENVIRONMENT,
                    cwd=self._folder or "/",
                    start_new_session=True,
                    pass_fds=[program] if route.level == "full" else [],
                    **ids,  # type: ignore[call-overload]
                )
            except (OSError, subprocess.SubprocessError) as error:
                raise StartError(str(error)) from None
            self._held = ours.pop_all()  # released in turn when the sandbox is closed

    def wait_until_ready(self) -> None:
        """Waits until the guest serves.

        Raises:
            StartError: it does not.
        """
        try:
            ready = self.receive(time.monotonic() + START_SECONDS, 100)
        except (GoneError, LateError) as error:
            self.close()
            raise StartError(f"{type(error).__name__} while starting, exit status {self._process.poll()}") from None
        if ready != b"ready":
            self.close()
            raise StartError(f"it said {ready!r} instead of being ready")

    def send(self, line: bytes, deadline: float) -> None:
        """Sends a line.

        Raises:
            GoneError: nobody reads it any more.
            LateError: it was not read in time.
        """
        rest = memoryview(line + b"\n")
        while rest:
            try:
                rest = rest[self._input.send(rest) :]
            except BlockingIOError:
                _wait(self._input, select.POLLOUT, deadline)
            except OSError as error:
                raise GoneError(str(error)) from None

    def receive(self, deadline: float, most: int) -> bytes:
        """Returns the next line, without its end.

        Raises:
            GoneError: there is none, or it has more than `most` bytes.
            LateError: none came in time.
        """
        parts, size = [], 0
        while True:
            head, end, tail = self._pending.partition(b"\n")
            size += len(head)
            if size > most:
                raise GoneError(f"a line of more than {most} bytes")
            parts.append(head)
            if end:
                self._pending = tail
                return b"".join(parts)
            self._pending = b""
            _wait(self._output, select.POLLIN, deadline)
            try:
                self._pending = self._output.recv(1 << 16)
            except BlockingIOError:
                continue
            except OSError as error:
                raise GoneError(str(error)) from None
            if not self._pending:
                raise GoneError("the other side is closed")

    def close(self) -> None:
        """Ends and reaps all that runs inside, and removes its folder."""
        process = self._process
        if process.returncode is not None:
            return
        self._input.close()  # upon which the watchdog ends the rest
        self._output.close()
        try:
            _wait_for_end(process.pid)
        except LateError:
            process.kill()  # bubblewrap and unshare take the namespace along
        finally:
            # The leader is not reaped yet, so its group cannot be anyone else's.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, 9)
            process.wait()
            self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def choose(least: Level) -> Route:
    """Returns a way to the strongest level that this system offers.

    Raises:
        SandboxError: even the least accepted level is out of reach.
    """
    reasons = []
    for level in LEVELS[: LEVELS.index(least) + 1]:
        route, reason = offered(level)
        if route is not None:
            return route
        reasons.append(f"{level}: {reason}")
    raise SandboxError(
        f"isolation {least!r} is the least that is accepted for untrusted programs, but this system does not offer it "
        f"({'; '.join(reasons)}), so nothing was run; {REMEDY}"
    )


_probing = threading.Lock()
_taken: set[int] = set()  # user ids of this process's sandboxes


def offered(level: Level) -> tuple[Route | None, str]:
    """Returns a way to a level that has worked in this process, or None and why there is none."""
    with _probing:
        return _probe(level)


@cache
def _probe(level: Level) -> tuple[Route | None, str]:
    if not sys.platform.startswith("linux"):
        return None, f"needs Linux, and this is {sys.platform}"
    root = os.geteuid() == 0 and _uid_range() is not None
    if level == "limits" and not root:
        return None, ONLY_ROOT
    routes = [Route(level, privileged=True, drop=False)] if root else []
    if level != "limits":
        routes.append(Route(level, privileged=False, drop=root))
    reasons = []
    for route in routes:
        try:
            with Sandbox(answer, Limits(10, 256, 4, 1), route) as trial:
                trial.wait_until_ready()
            return route, ""
        except StartError as error:
            reasons.append(str(error))
    return None, ", then ".join(dict.fromkeys(reasons))


@cache
def _uid_range() -> tuple[int, int] | None:
    """The user ids that root may give away: a high range, or the upper half of what a container maps."""
    lines = Path("/proc/self/uid_map").read_text().splitlines()
    first, count = max(((int(start), int(size)) for start, _, size in map(str.split, lines)), key=lambda two: two[1])
    if first <= FIRST_UID and first + count >= LAST_UID:
        return FIRST_UID, LAST_UID
    return (first + count // 2, first + count) if count > 10_000 else None


def _own_uid() -> int:
    """Draws a user id that no other sandbox of this process has."""
    least, most = _uid_range() or (FIRST_UID, LAST_UID)
    while True:
        uid = random.SystemRandom().randrange(least, most - 1)
        if uid != NOBODY and uid not in _taken:
            _taken.add(uid)
            return uid


def _wrapper(route: Route, limits: Limits, program: int) -> list[str]:
    """The command that makes the namespaces, up to the command inside them."""
    if route.level == "limits":
        return []
    tool = {"full": "bwrap", "processes": "unshare"}[route.level]
    path = shutil.which(tool)
    if path is None:
        raise StartError(f"there is no {tool} on the PATH")
    if route.level == "processes":
        own = [] if route.privileged else ["--user", "--map-current-user", "--keep-caps"]
        return [path, *own, "--pid", "--fork", "--kill-child", "--net", "--ipc", "--uts", "--mount-proc"]
    command = [path, "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    command += ["--as-pid-1", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    if route.privileged:
        command += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        command += ["--unshare-user"]
    command += _view()
    for folder in _files().covered:
        command += ["--perms", "0555", "--size", "4096", "--tmpfs", folder, "--remount-ro", folder]
    command += ["--perms", "1777", "--size", str(limits.file_mib * MIB), "--tmpfs", "/tmp", "--remount-ro", "/"]
    return [*command, "--seccomp", str(program)] if seccomp.instructions() else command


class Files(NamedTuple):
    """What a sandbox sees of the host, read-only, and which folders in it are empty to it."""

    shown: tuple[str, ...]
    covered: tuple[str, ...]


@cache
def _files() -> Files:
    prefixes = [
        prefix
        for prefix in dict.fromkeys(map(os.path.realpath, (sys.base_prefix, sys.base_exec_prefix)))
        if not _inside(prefix, "/usr")
    ]
    system = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", *prefixes, "/etc/ld.so.cache")
    shown = [path for path in system if os.path.lexists(path)]
    packages = [
        os.path.realpath(path)
        for prefix in ("/usr", "/usr/local", *prefixes)
        for kind in ("site-packages", "dist-packages")
        for path in glob.glob(f"{glob.escape(prefix)}/lib*/python*/{kind}")
    ]
    # Data sets come as packages, too, and an image may have its project in /usr/src.
    own = [
        ROOT,
        os.path.expanduser("~"),
        os.environ.get("GDSD_HOME") or "~/.flyte/gdsd",
        sys.prefix,
        *sys.path,
    ]
    needed = {os.path.realpath(path) for path in (*shown, os.path.dirname(os.__file__), _interpreter())}
    covered = {
        path
        for path in map(os.path.realpath, map(os.path.expanduser, filter(None, own)))
        if not any(_inside(one, path) for one in needed) and not _inside(path, os.path.dirname(os.__file__))
    } | set(packages)
    inner = sorted(path for path in covered if os.path.isdir(path) and any(_inside(path, one) for one in shown))
    outermost = [path for path in inner if not any(_inside(path, one) for one in inner if one != path)]
    return Files((*shown, *(f"/dev/{device}" for device in DEVICES)), tuple(outermost))


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _view() -> list[str]:
    """What bubblewrap shows of the host, read-only."""
    shown = _files().shown
    # Folders that bubblewrap makes on its own are its user's only.
    above = {str(parent) for path in (*shown, GUESTS) for parent in Path(path).parents}
    view = [part for folder in sorted(above - {"/"}) for part in ("--dir", folder)]
    for path in shown:
        if os.path.islink(path):
            view += ["--symlink", os.readlink(path), path]
        else:
            view += ["--dev-bind" if path.startswith("/dev/") else "--ro-bind", path, path]
    return [*view, "--symlink", "urandom", "/dev/random", "--ro-bind", os.path.dirname(SCRIPT), GUESTS]


def _guest(role: ModuleType, limits: Limits, route: Route, uid: int | None) -> list[str]:
    """The command inside the namespaces."""
    script = f"{GUESTS}/start.py" if route.level == "full" else SCRIPT
    orders = [
        role.__name__.rpartition(".")[2],
        route.level,
        uid if uid is not None and route.privileged else 0,
        limits.seconds,
        limits.memory_mib * MIB,
        limits.processes + _counted_too(route),
        limits.file_mib * MIB,
    ]
    files = _files() if route.level == "processes" else Files((), ())
    orders += [len(files.shown), *files.shown, *files.covered]
    return [_interpreter(), *PYTHON_OPTIONS, script, *map(str, orders)]


def _interpreter() -> str:
    """The interpreter itself, behind any virtual environment."""
    return os.path.realpath(str(vars(sys)["_base_executable"]))


def _counted_too(route: Route) -> int:
    """Processes that the kernel counts with those of the program: the watchdog, and unshare itself."""
    return 0 if route.privileged else {"full": 1, "processes": 2}[route.level]


def _pair(ours: ExitStack, theirs: ExitStack, how: int) -> tuple[socket.socket, socket.socket]:
    """Two connected sockets, of which ours is shut down for one direction."""
    mine, other = socket.socketpair()
    ours.callback(mine.close)
    theirs.callback(other.close)
    mine.setblocking(False)
    mine.shutdown(how)
    return mine, other


def _remove(folder: str) -> None:
    # The binaries cope with trees that are deeper than any path may be long.
    for command in (["chmod", "-R", "u+rwx"], ["rm", "-rf"]):
        subprocess.run([*command, "--", folder], stderr=subprocess.DEVNULL, check=False)


def _wait(end: socket.socket | int, event: int, deadline: float) -> None:
    left = deadline - time.monotonic()
    poller = select.poll()
    poller.register(end, event)
    if left <= 0 or not poller.poll(left * 1000):
        raise LateError


def _wait_for_end(pid: int) -> None:
    until = time.monotonic() + STOP_SECONDS
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:  # no descriptor is free
        while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if time.monotonic() > until:
                raise LateError from None
            time.sleep(0.01)
        return
    try:
        _wait(descriptor, select.POLLIN, until)
    finally:
        os.close(descriptor)
