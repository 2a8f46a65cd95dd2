"""What runs first inside a sandbox: takes away what is left to take away, then serves one role.

There are two processes, a watchdog and the program. The watchdog ends when the program ends, or when the other end of
its standard input closes, as it does when the host lets go or dies. Everything in the sandbox ends with it. As pid 1 of
a namespace nothing inside can kill it, and at the level `none` it is of another user than the program.
"""

import os
import resource
import select
import sys
import time

OPEN_FILES = 64
GRACE = 20.0  # seconds for killing what is left, at the level `none`, on a busy machine


def main() -> None:
    """Reads its orders from the command line; see `host.Sandbox`."""
    role, level = sys.argv[1:3]
    uid, seconds, memory, processes, file_size = map(int, sys.argv[3:])
    if role == "answer":
        from tasks.gdsd.sandbox.guest.answer import serve
    else:
        from tasks.gdsd.sandbox.guest.tester import serve
    if level == "none":
        from tasks.gdsd.sandbox.guest import kernel  # bubblewrap does all of it, and the import takes time
    sys.path.pop(0)
    interpreter = -1
    if level == "full":
        os.chdir("/tmp")
    else:
        kernel.adopt_orphans()
        interpreter = os.open(os.path.realpath(sys.base_prefix), os.O_PATH | os.O_DIRECTORY)
    child = os.fork()
    if child:
        _watch(child, level, uid)
    if uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    if level == "none":
        _hold(interpreter)
    _limit(seconds, memory, processes, file_size)
    if level == "none":
        kernel.forgo_privileges()
    os.environ.clear()
    serve(*_pipes())
    os._exit(0)


def _hold(interpreter: int) -> None:
    """Keeps the standard library within reach of a user that may not walk to it; the folder stays open only then."""
    if os.access(os.__file__, os.R_OK):
        os.close(interpreter)
        return
    prefix, folder = os.path.realpath(sys.base_prefix), f"/proc/self/fd/{interpreter}"
    places = [sys.path, *(vars(module).get("__path__", []) for module in list(sys.modules.values()))]
    for place in places:
        real = [os.path.realpath(path) for path in place]
        place[:] = [folder + path[len(prefix) :] if path.startswith(prefix + "/") else path for path in real]
    sys.path_importer_cache.clear()


def _limit(seconds: int, memory: int, processes: int, file_size: int) -> None:
    for what, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, file_size),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_NPROC, processes),
        (resource.RLIMIT_AS, memory),
    ):
        _, hard = resource.getrlimit(what)
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (least, least))


def _pipes() -> tuple[int, int]:
    """Moves the two ends of the host's pipes away from standard input and output."""
    requests, replies = os.dup(0), os.dup(1)
    nothing = os.open("/dev/null", os.O_RDWR)
    for standard in range(3):
        os.dup2(nothing, standard)
    os.close(nothing)
    return requests, replies


def _watch(child: int, level: str, uid: int) -> None:
    nothing = os.open("/dev/null", os.O_RDWR)
    os.dup2(nothing, 1)
    lifeline = select.poll()
    lifeline.register(0, 0)  # reports a hang-up only
    while not lifeline.poll(50):
        if child in _reap():
            break
    if level == "none":
        _kill_all(uid)
    os._exit(0)


def _reap() -> list[int]:
    ended: list[int] = []
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended.append(pid)


def _kill_all(uid: int) -> None:
    """Kills what has no namespace to die with: everything of the sandbox's own user."""
    until = time.monotonic() + GRACE
    if (killer := os.fork()) == 0:
        os.setresuid(uid, uid, uid)
        os.kill(-1, 9)
        os._exit(0)
    while time.monotonic() < until:
        _reap()
        # Orphans become children of this process, which adopts them.
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            children = [int(pid) for pid in file.read().split()]
        if not children:
            return
        for pid in children:
            if pid != killer:
                os.kill(pid, 9)
        time.sleep(0.001)
