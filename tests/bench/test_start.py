"""How long a person waits for the help of the workflows, against flytekit's own start.

python -m pytest -m slow -s tests/bench/test_start.py
"""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYFLYTE = Path(sys.executable).with_name("pyflyte")
COMMANDS = {
    "pyflyte run --help": ["run", "--help"],
    "the workflows' commands": ["run", "workflows/gdsd.py", "--help"],
    "the inputs of train": ["run", "workflows/gdsd.py", "train", "--help"],
}


def seconds(arguments: list[str]) -> float:
    began = time.monotonic()
    subprocess.run([PYFLYTE, *arguments], cwd=ROOT, check=True, capture_output=True)
    return time.monotonic() - began


@pytest.mark.slow
def test_help_is_there_at_once() -> None:
    """A newcomer's first command; no timing is asserted, since the machine may have other work."""
    rounds = [{name: seconds(arguments) for name, arguments in COMMANDS.items()} for _ in range(6)]
    found = {name: statistics.median(each[name] for each in rounds[1:]) for name in COMMANDS}  # the first one warms up
    plain = found["pyflyte run --help"]
    print(f"\n{'help of':<25} seconds  times flytekit's own")
    for name, taken in found.items():
        print(f"{name:<25} {taken:7.2f} {taken / plain:21.2f}")
    print(json.dumps({"start": found}))
