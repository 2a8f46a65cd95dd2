"""How long a person waits for the help of the workflows, against flytekit's own start.

python -m pytest -m slow -s tests/bench/test_start.py
"""

import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.bench.harness import ROOT, in_turns, show

PYFLYTE = Path(sys.executable).with_name("pyflyte")
COMMANDS = {
    "pyflyte run --help": ["run", "--help"],
    "the workflows' commands": ["run", "workflows/gdsd.py", "--help"],
    "the inputs of train": ["run", "workflows/gdsd.py", "train", "--help"],
}


@pytest.mark.slow
def test_help_is_there_at_once() -> None:
    """A newcomer's first command; no timing is asserted, since the machine may have other work."""
    start = partial(subprocess.run, cwd=ROOT, check=True, capture_output=True)
    taken = in_turns({name: partial(start, [PYFLYTE, *words]) for name, words in COMMANDS.items()}, 5)
    medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
    plain = medians["pyflyte run --help"]
    rows = {name: {"seconds": median, "times flytekit's own": median / plain} for name, median in medians.items()}
    show("help of", rows)
