"""The tiny experiments learn: three seeds each through `pyflyte run`, with intervals, time and peak memory.

make bench            or            python -m pytest -m slow -s tests/bench/test_learning.py
"""

import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tasks.gdsd.run.run_record import RunRecord
from tests.bench.harness import show
from tests.workflows.conftest import PYFLYTE, ROOT, environment


@dataclass(frozen=True)
class Measured:
    seed: int
    record: RunRecord
    seconds: float
    again_seconds: float  # the same command, served from the cache
    peak_gib: float


def train(name: str, seed: int, home: Path) -> Measured:
    """Runs an experiment from an empty cache; the seed draws rollouts, masks and the order of problems."""
    config = yaml.safe_load((ROOT / f"configs/{name}.yaml").read_text()) | {"seed": seed}
    command = [PYFLYTE, "run", "workflows/gdsd.py", "train", "--config", json.dumps(config)]
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


def row(measured: Measured) -> dict[str, float | str]:
    record = measured.record
    return {
        "base solved": record.base.solved.percent(),
        "trained solved": record.trained.solved.percent(),
        "gain, points": record.decision.solved_difference.points(),
        "base reward, %": 100 * record.base.reward.mean,
        "trained reward": record.trained.reward.percent(),
        "seconds": measured.seconds,
        "again": measured.again_seconds,
        "peak GiB": measured.peak_gib,
    }


# name: least gain in solved, least mean reward at the end, most seconds
PROMISED = {"tiny_sudoku": (0.50, 0.92, 360), "tiny_countdown": (0.15, 0.25, 600)}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROMISED)
def test_the_experiment_learns(name: str, tmp_path: Path) -> None:
    """What README.md and docs/results.md promise of `make train`, and of Countdown."""
    runs = [train(name, seed, tmp_path / str(seed)) for seed in range(3)]
    show(name, {f"seed {run.seed}": row(run) for run in runs})
    gain, reward, seconds = PROMISED[name]
    for run in runs:
        assert run.record.base.solved.mean <= 0.20
        assert run.record.decision.solved_difference.mean >= gain and run.record.decision.promoted
        assert run.record.trained.reward.mean >= reward
        assert run.seconds <= seconds and run.again_seconds <= 15 and run.peak_gib <= 2
