"""Nothing that a test run makes outlives it: its temporary files lie in one folder, which goes with it."""

import os
import shutil
import tempfile

# Python's own, and pytest's. Libraries make folders on import, so these are set before anything else is imported.
VARIABLES = ("TMPDIR", "PYTEST_DEBUG_TEMPROOT")
FOLDER = None
if "PYTEST_XDIST_WORKER" not in os.environ:  # in the process that starts the others
    FOLDER = tempfile.tempdir = tempfile.mkdtemp(prefix="gdsd-")  # a short name, since sockets lie in it
    os.environ.update(dict.fromkeys(VARIABLES, FOLDER))


def pytest_unconfigure() -> None:
    """Removes the folder."""
    if FOLDER is not None:
        shutil.rmtree(FOLDER, ignore_errors=True)
