"""Starts and ends untrusted programs: what a policy writes, and tests that come with a data set.

Two levels of isolation:

- `full`: a sandbox by bubblewrap. A program sees no file of the host but read-only system folders and the interpreter,
  no network and no other process; see `bubblewrap`.
- `none`: **no sandbox**. A program is a process of another user, with an empty environment and an empty temporary
  folder. It reads what every user of the host can, writes where every user may, sees all processes, and has the
  network. Only root can have this level. As any other user a program would run as the user of the pipeline, with that
  user's files and processes.

At both levels a program has limits of CPU time, memory, processes and file size, a filter of system calls, a process
group of its own, and no way to new privileges. Everything inside ends when the host lets go or dies. If the host is
root, each program gets a user id of its own. Another user's sandboxes are counted by their user namespace (Linux 5.14).
"""

import contextlib
import fcntl
import os
import select
import socket
import subprocess
import tempfile
import time
from array import array
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import Literal, NamedTuple, Self

from tasks.gdsd.sandbox import bubblewrap, users
from tasks.gdsd.sandbox.clocks import Clock, Deadline, LateError
from tasks.gdsd.sandbox.gauge import Gauge
from tasks.gdsd.sandbox.guest import answer, kernel, launch, seccomp, start, tester, wire

Level = Literal["full", "none"]
SHIPPED = (answer, kernel, launch, seccomp, start, tester, wire)  # named, so that their files travel to a cluster

START_SECONDS = 120.0  # for a sandbox to come up, which takes a tenth of one; a busy machine is no broken one
STOP_SECONDS = 30.0  # likewise
MIB = 1 << 20
PREFIX = "gdsd-untrusted-"  # of temporary folders
SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
PYTHON_OPTIONS = ("-P", "-s", "-S")  # with an environment of our own: what -I does, but with a fixed hash seed
ENVIRONMENT = {"PYTHONHASHSEED": "0"}  # or the order of a set, and with it a verdict, would be chance
ONLY_ROOT = (
    "needs root, which gives each program a user of its own; as the user that runs the pipeline, a program could read "
    "its files, kill its processes and write another program's verdict"
)


class GoneError(Exception):
    """A confined program ended, closed its pipe, or wrote more than it may."""


class StartError(Exception):
    """A sandbox did not come up."""


@dataclass(frozen=True)
class Limits:
    """What one confined process may use."""

    seconds: int  # of CPU, for each of its processes
    memory_mib: int  # of address space, for each of its processes
    processes: int  # and threads, at a time
    file_mib: int  # a file; at the level `full` also the whole temporary folder


class Route(NamedTuple):
    """One way to a level."""

    level: Level
    privileged: bool  # root of the host makes the namespaces, and the program becomes a user of its own inside
    drop: bool  # root gives up its user before anything else


class Sandbox:
    """A process that serves a role of `guest` at the level of a route, and a pair of sockets for each direction.

    Pipes would not do: a process could open them anew by /proc, and so keep its own end from ever being the last.

    Closing it, or leaving its `with` block, ends all that runs inside.

    Raises:
        StartError: it did not come up.
    """

    def __init__(self, role: ModuleType, limits: Limits, route: Route) -> None:
        if route.level == "none" and not route.privileged:
            raise StartError(ONLY_ROOT)
        self._pending = b""
        self.numpy = f"{bubblewrap.PACKAGES}/numpy"  # the folder of numpy as the guest sees it, for tests
        with ExitStack() as ours, ExitStack() as theirs:
            try:
                uid = ours.enter_context(users.lent()) if route.privileged or route.drop else None
                self._input, requests = _pair(ours, theirs, socket.SHUT_RD)
                self._output, replies = _pair(ours, theirs, socket.SHUT_WR)
                folder, wrapper, passed = "/", list[str](), list[int]()
                if route.level == "full":
                    passed = [theirs.enter_context(file_in_memory(seccomp.instructions()))]
                    wrapper = bubblewrap.command(limits.file_mib * MIB, route.privileged, role is tester, *passed)
                else:
                    folder = ours.enter_context(_temporary_folder(uid))
                    if role is tester:  # whose user may not walk to it
                        passed = [os.open(bubblewrap.numpy_files()[0], os.O_PATH | os.O_DIRECTORY)]
                        theirs.callback(os.close, *passed)
                        self.numpy = f"/proc/self/fd/{passed[0]}"
                dropped = uid if route.drop else None
                self._process = subprocess.Popen(
                    [*wrapper, *_guest(role, limits, route, uid)],
                    stdin=requests.fileno(),
                    stdout=replies.fileno(),
                    stderr=subprocess.DEVNULL,
                    env=ENVIRONMENT,
                    cwd=folder,
                    start_new_session=True,
                    pass_fds=passed,
                    user=dropped,
                    group=dropped,
                    extra_groups=[] if route.drop else None,
                )
            except (OSError, subprocess.SubprocessError) as error:
                raise StartError(str(error)) from None
            self.gauge = Gauge(self._process.pid, wrapped=route.level == "full")
            self._held = ours.pop_all()  # released in turn when the sandbox is closed

    def wait_until_ready(self) -> None:
        """Waits until the guest serves.

        Raises:
            StartError: it does not.
        """
        try:
            if (said := self.receive(Deadline(START_SECONDS), 100)) != b"ready":
                raise GoneError(f"it said {said!r} instead of being ready")
        except (GoneError, LateError) as error:
            self.close()
            raise StartError(f"{error!r} while starting, exit status {self._process.poll()}") from None

    def send(self, line: bytes, clock: Clock, *lent: int) -> None:
        """Sends a line, and with its first byte open files, which the guest gets as descriptors of its own.

        Raises:
            GoneError: nobody reads it any more.
            LateError, SpentError: it was not read in time; see `Clock`.
        """
        rest = memoryview(line + b"\n")
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", lent))] if lent else []
        while rest:
            try:
                rest = rest[self._input.sendmsg([rest], rights) :]
                rights = []
            except BlockingIOError:
                clock.wait(self._input, select.POLLOUT)
            except OSError as error:
                raise GoneError(str(error)) from None

    def receive(self, clock: Clock, most: int) -> bytes:
        """Returns the next line, without its end.

        Raises:
            GoneError: there is none, or it has more than `most` bytes.
            LateError, SpentError: none came in time; see `Clock`.
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
            clock.wait(self._output, select.POLLIN)
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
        until = time.monotonic() + STOP_SECONDS
        look = os.WEXITED | os.WNOHANG | os.WNOWAIT  # without reaping it
        try:
            while not os.waitid(os.P_PID, process.pid, look) and time.monotonic() < until:
                time.sleep(0.002)
        finally:
            # The leader is not reaped yet, so its group cannot be anyone else's. bubblewrap takes its namespace along.
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


@contextmanager
def file_in_memory(content: bytes) -> Iterator[int]:
    """Lends a descriptor that reads a file in memory, at its start; nobody can write the file, however it is opened.

    Raises:
        StartError: there is no memory or descriptor for it.
    """
    with ExitStack() as held:
        try:
            writer = held.enter_context(open(os.memfd_create("gdsd", os.MFD_ALLOW_SEALING), "wb"))
            writer.write(content)
            writer.flush()
            fcntl.fcntl(writer, fcntl.F_ADD_SEALS, SEALS)
            reader = os.open(f"/proc/self/fd/{writer.fileno()}", os.O_RDONLY)
            held.callback(os.close, reader)
        except OSError as error:
            raise StartError(str(error)) from None
        yield reader


@contextmanager
def _temporary_folder(uid: int | None) -> Iterator[str]:
    """Lends a folder that belongs to a user."""
    assert uid is not None
    folder = tempfile.mkdtemp(prefix=PREFIX)
    try:
        os.chown(folder, uid, uid)
        yield folder
    finally:
        # The binaries cope with trees that are deeper than any path may be long.
        for command in (["chmod", "-R", "u+rwx"], ["rm", "-rf"]):
            subprocess.run([*command, "--", folder], stderr=subprocess.DEVNULL, check=False)


def _guest(role: ModuleType, limits: Limits, route: Route, uid: int | None) -> list[str]:
    """The command that runs the guest, inside whatever confines it."""
    orders = (
        role.__name__.rpartition(".")[2],
        route.level,
        uid if uid is not None and route.privileged else 0,
        limits.seconds,
        limits.memory_mib * MIB,
        limits.processes + (not route.privileged),  # the kernel counts the watchdog too where it is of the same user
        limits.file_mib * MIB,
    )
    script = f"{bubblewrap.GUEST}/start.py" if route.level == "full" else bubblewrap.SCRIPT
    return [bubblewrap.interpreter(), *PYTHON_OPTIONS, script, *map(str, orders)]


def _pair(ours: ExitStack, theirs: ExitStack, how: int) -> tuple[socket.socket, socket.socket]:
    """Two connected sockets, of which ours is shut down for one direction."""
    mine, other = socket.socketpair()
    ours.callback(mine.close)
    theirs.callback(other.close)
    mine.setblocking(False)
    mine.shutdown(how)
    return mine, other
