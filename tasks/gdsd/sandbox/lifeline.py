"""Processes that end with the one that started them, however that one ends.

The one that starts another keeps the end of a pipe into which it writes nothing, and the other watches the other end.
The kernel closes the first end when its process is gone. Sandboxes watch their standard input in the same way; see
`guest.launch`. A signal at the death of a parent (PR_SET_PDEATHSIG) would not do. It comes when the thread ends that
started the process, and a process that a server forks has that server as its parent.
"""

import fcntl
import os
import select
import signal
import sys
import threading


def hold_on_to(lifeline: int) -> None:
    """Kills this process once the other end of a pipe is closed, and leaves Ctrl-C to the process that has that end.

    On Linux the kernel does it, even in the midst of a long computation in C. Elsewhere a thread does, once Python lets
    it run.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to both
    if sys.platform != "linux":
        threading.Thread(target=_wait, args=(lifeline, None), daemon=True).start()
        return
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    _wait(lifeline, 0)  # it may have been closed before


def _wait(lifeline: int, milliseconds: int | None) -> None:
    """Waits for a pipe to be closed, for ever if None, and kills this process then."""
    poller = select.poll()
    poller.register(lifeline, 0)  # reports a hang-up only
    if poller.poll(milliseconds):
        os.kill(os.getpid(), signal.SIGKILL)
