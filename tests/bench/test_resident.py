"""The default experiment as stages and as rounds that stay in memory: whole commands, in turns.

python -m pytest -m slow -s tests/bench/test_resident.py
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.gdsd.run.run_record import RunRecord
from tests.bench.harness import ROOT, show

PYFLYTE = Path(sys.executable).with_name("pyflyte")
ROUNDS, TURNS = 30, 3


def run(folder: Path, rounds_per_task: int) -> dict[str, float]:
    """Trains from nothing, and returns what that took."""
    home = folder / "data"
    command = [PYFLYTE, "run", "workflows/gdsd.py", "train", "--config", "configs/tiny_sudoku.yaml"]
    command += ["--set", f"rounds={ROUNDS}", "--set", f"rounds_per_task={rounds_per_task}"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    places = {"HOME": str(folder), "GDSD_HOME": str(home)}
    subprocess.run([str(word) for word in command], cwd=ROOT, env=os.environ | places, check=True, capture_output=True)
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    (file,) = home.glob("run-*/run.json")
    overhead = RunRecord.model_validate(json.loads(file.read_text())).overhead()
    assert overhead is not None
    return {
        "seconds": seconds,
        "processor seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "seconds a round": overhead.seconds,
        "beyond its work, %": 100 * overhead.share,
        "peak of all so far, GiB": after.ru_maxrss / 2**20,
    }


@pytest.mark.slow
def test_rounds_in_memory_take_less_time(tmp_path: Path) -> None:
    """What the stages cost beyond their work; no timing is asserted, since the machine may have other work."""
    found: dict[str, list[dict[str, float]]] = {"in memory": [], "stages": []}
    for turn in range(TURNS):
        for name, rounds_per_task in (("in memory", 10), ("stages", 1)):
            folder = tmp_path / f"{name} {turn}"
            folder.mkdir()
            found[name].append(run(folder, rounds_per_task))
    rows: dict[str, dict[str, float | str]] = {
        name: {column: statistics.median(each[column] for each in runs) for column in runs[0]}
        for name, runs in found.items()
    }
    for column in ("seconds", "seconds a round"):
        ratios = [stages[column] / one[column] for stages, one in zip(found["stages"], found["in memory"], strict=True)]
        rows["stages"][f"{column}, against in memory"] = statistics.median(ratios)
    show(f"{ROUNDS} rounds of the default experiment, medians of {TURNS}", rows)
