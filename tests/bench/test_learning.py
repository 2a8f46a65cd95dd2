"""The default experiment learns: three seeds through `pyflyte run`, with intervals, time and peak memory.

make bench            or            python -m pytest -m slow -s tests/bench/test_learning.py
"""

import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tasks.gdsd.run_record import RunRecord
from tests.workflows.conftest import PYFLYTE, ROOT, environment


@dataclass(frozen=True)
class Measured:
    seed: int
    record: RunRecord
    seconds: float
    again_seconds: float  # the same command, served from the cache
    peak_gib: float


def train(seed: int, home: Path) -> Measured:
    """Runs the default experiment from an empty cache; the seed draws rollouts, masks and the order of problems."""
    command = [PYFLYTE, "run", "workflows/gdsd.py", "train", "--config", json.dumps({"seed": seed})]
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, env=environment(home), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - began
    assert status == 0
    (path,) = home.glob(".flyte/gdsd/run-*/run.json")
    record = RunRecord.model_validate_json(path.read_text())
    began = time.monotonic()
    subprocess.run(command, cwd=ROOT, env=environment(home), capture_output=True, check=True)
    return Measured(seed, record, seconds, time.monotonic() - began, usage.ru_maxrss / 2**20)


def row(measured: Measured) -> list[str]:
    record = measured.record
    return [
        str(measured.seed),
        record.base.solved.percent(),
        record.trained.solved.percent(),
        record.decision.solved_difference.points(),
        f"{100 * record.base.reward.mean:.1f} %",
        record.trained.reward.percent(),
        f"{measured.seconds:.0f} s",
        f"{measured.again_seconds:.0f} s",
        f"{measured.peak_gib:.2f} GiB",
    ]


@pytest.mark.slow
def test_the_default_experiment_learns(tmp_path: Path) -> None:
    """What the README promises a newcomer of `make train`."""
    runs = [train(seed, tmp_path / str(seed)) for seed in range(3)]
    head = [
        "seed",
        "base solved",
        "trained solved",
        "gain, points",
        "base cells",
        "trained cells",
        "time",
        "again",
        "peak memory",
    ]
    print("\n| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for run in runs:
        print("| " + " | ".join(row(run)) + " |")
    print(
        json.dumps(
            [
                {
                    "seed": run.seed,
                    "base_solved": run.record.base.solved.mean,
                    "trained_solved": run.record.trained.solved.mean,
                    "gain": run.record.decision.solved_difference.model_dump(),
                    "trained_cells": run.record.trained.reward.mean,
                    "seconds": round(run.seconds, 1),
                    "peak_gib": round(run.peak_gib, 3),
                }
                for run in runs
            ]
        )
    )
    for run in runs:
        assert run.record.base.solved.mean <= 0.20
        assert run.record.decision.solved_difference.mean >= 0.50
        assert run.record.trained.reward.mean >= 0.92
        assert run.record.decision.promoted
        assert run.seconds <= 360 and run.again_seconds <= 15 and run.peak_gib <= 2
