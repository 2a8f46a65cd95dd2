"""What a run says while it works: one line per stage on standard error."""

import logging
import sys


def speak() -> None:
    """Sends the project's log lines to standard error, once, leaving other libraries' as they are."""
    project = logging.getLogger("tasks")
    if not project.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        project.addHandler(handler)
        project.setLevel(logging.INFO)
        project.propagate = False
