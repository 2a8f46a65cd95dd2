"""Ctrl-C and other signals that end a run: it says so in a line, and is gone within seconds, whatever it is doing."""

import atexit
import os
import select
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from tasks.gdsd.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SECONDS = 3.0  # for what is under way to end in good order


def handle(leave: Callable[[], None], line: str) -> None:
    """Ends this process at a signal: in good order if that takes seconds, and else by `leave`, which cleans up.

    Python runs handlers between two of its own steps, in the main thread. A thread sees the signal also while that one
    is in a long computation, or waits for others. The processes that this one has started end with it.

    What is ignored, as by nohup, stays ignored. A fork handles nothing: it has no such thread.

    Args:
        leave: what is done before this process is cut off
        line: what is said at the first signal
    """
    signals = [one for one in SIGNALS if signal.getsignal(one) != signal.SIG_IGN]
    seen, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    said = threading.Event()
    threading.Thread(target=_end, args=(seen, signals, leave, line, said), daemon=True).start()

    def end(number: int, frame: FrameType | None) -> NoReturn:
        handle_by(_leave_to_the_thread)
        said.wait(1)
        raise Interrupted(128 + number)  # unlike a KeyboardInterrupt nothing on the way reports it

    def handle_by(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
        for one in signals:
            signal.signal(one, handler)

    def handle_nothing() -> None:
        signal.set_wakeup_fd(-1)
        handle_by(signal.SIG_DFL)

    handle_by(end)
    os.register_at_fork(after_in_child=handle_nothing)
    atexit.register(handle_by, _leave_to_the_thread)  # Python would drop what `end` raises, and the rest of a callback


def _leave_to_the_thread(number: int, frame: FrameType | None) -> None:
    """Does nothing about a second signal: the thread sees each that has a handler."""


def _end(seen: int, signals: list[signal.Signals], leave: Callable[[], None], line: str, said: threading.Event) -> None:
    """Waits for a signal, says so, and ends the process when its time is over, or at a second signal."""
    while (number := os.read(seen, 1)[0]) not in signals:  # others may have handlers too
        pass
    with suppress(OSError):  # the terminal may be gone
        if _is_ready(2, select.POLLOUT, 0):  # it may be stopped, or a pipe that nobody reads
            os.write(2, f"\n{line}\n".encode() if os.isatty(2) else f"{line}\n".encode())  # it shows ^C in the line
    said.set()
    _is_ready(seen, select.POLLIN, SECONDS)
    leave()
    os._exit(128 + number)


def _is_ready(file: int, event: int, seconds: float) -> bool:
    """Waits for something to be readable or writable, for some time at most."""
    waiting = select.poll()
    waiting.register(file, event)
    return bool(waiting.poll(1000 * seconds))
