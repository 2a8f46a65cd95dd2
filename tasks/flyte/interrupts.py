"""Ctrl-C and other signals that end a run: it says so in a line, and is gone within seconds, whatever it is doing."""

import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SECONDS = 3.0  # for what is under way to end in good order
SAID = b"interrupted; the same command goes on with what is missing\n"


def handle(leave: Callable[[], None]) -> None:
    """Ends this process at a signal: in good order if that takes seconds, and else by `leave`, which cleans up.

    Python runs handlers between two of its own steps, in the main thread. A thread sees the signal also while that one
    is in a long computation, or waits for others. The processes that this one has started end with it.

    What is ignored, as by nohup, stays ignored.
    """
    signals = [one for one in SIGNALS if signal.getsignal(one) != signal.SIG_IGN]
    seen, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    said = threading.Event()
    threading.Thread(target=_end, args=(seen, signals, leave, said), daemon=True).start()

    def end(number: int, frame: FrameType | None) -> NoReturn:
        for one in signals:
            signal.signal(one, _leave_to_the_thread)
        said.wait()
        sys.exit(128 + number)  # unlike a KeyboardInterrupt nothing on the way reports it

    for one in signals:
        signal.signal(one, end)


def _leave_to_the_thread(number: int, frame: FrameType | None) -> None:
    """Does nothing about a second signal: the thread sees each that has a handler."""


def _end(seen: int, signals: list[signal.Signals], leave: Callable[[], None], said: threading.Event) -> None:
    """Waits for a signal, says so, and ends the process when its time is over, or at a second signal."""
    while (number := os.read(seen, 1)[0]) not in signals:  # others may have handlers too
        pass
    with suppress(OSError):  # the terminal may be gone
        os.write(2, b"\n" + SAID if os.isatty(2) else SAID)  # it shows ^C in the line
    said.set()
    again = select.poll()
    again.register(seen, select.POLLIN)
    again.poll(1000 * SECONDS)
    leave()
    os._exit(128 + number)
