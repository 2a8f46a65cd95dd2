"""Nothing that a test run makes outlives it: its temporary files lie in one folder, which goes with it."""

import os
import shutil
import tempfile

import pytest

# Their own and pytest's.
VARIABLES = ("TMPDIR", "PYTEST_DEBUG_TEMPROOT")
FOLDER = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Makes the folder, in the process that starts the others; its name is short, since sockets lie in it."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        config.stash[FOLDER] = tempfile.tempdir = tempfile.mkdtemp(prefix="gdsd-")
        os.environ.update(dict.fromkeys(VARIABLES, tempfile.tempdir))


def pytest_unconfigure(config: pytest.Config) -> None:
    """Removes the folder."""
    if FOLDER in config.stash:
        shutil.rmtree(config.stash[FOLDER], ignore_errors=True)
