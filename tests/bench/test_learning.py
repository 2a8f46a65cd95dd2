"""The tiny experiments learn from any base, each through `pyflyte run`, with intervals, time and peak memory.

make bench            or            python -m pytest -m slow -s tests/bench/test_learning.py
"""

import json
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import pytest
import yaml

from tasks.gdsd.run.run_record import RunRecord
from tests.bench.harness import show
from tests.workflows.conftest import PYFLYTE, ROOT, environment

Changed = dict[str, object]


@dataclass(frozen=True)
class Measured:
    record: RunRecord
    seconds: float
    processor_seconds: float
    again_seconds: float  # the same command, served from the cache
    peak_gib: float


def train(
    name: str, home: Path, *, seed: int = 0, base: int = 0, objective: Changed | None = None, **distill: object
) -> Measured:
    """Runs an experiment from an empty cache, with changed options of the distillation and its objective.

    Args:
        seed: draws rollouts, masks and the order of problems.
        base: `policy.seed`, which draws the base.
    """
    config = yaml.safe_load((ROOT / f"configs/{name}.yaml").read_text()) | {"seed": seed}
    config["policy"]["seed"] = base
    config["distill"] |= distill | {"objective": config["distill"]["objective"] | (objective or {})}
    command = [PYFLYTE, "run", "workflows/gdsd.py", "train", "--config", json.dumps(config)]
    # Two runs share two cores. With more threads than cores those that wait for each other would spin.
    alone = environment(home) | {"OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, env=alone, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - began
    assert status == 0
    (path,) = home.glob(".flyte/gdsd/run-*/run.json")
    record = RunRecord.model_validate_json(path.read_text())
    began = time.monotonic()
    subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, check=True)
    again, spent = time.monotonic() - began, usage.ru_utime + usage.ru_stime
    return Measured(record, seconds, spent, again, usage.ru_maxrss / 2**20)


def late_drop(record: RunRecord) -> float:
    """The deepest fall of the solved share below the best validation before it, after the first third of the run."""
    best, drop = 0.0, 0.0
    for report in record.validations:
        if report.round > record.config.rounds / 3:
            drop = max(drop, best - report.solved.mean)
        best = max(best, report.solved.mean)
    return drop


def row(measured: Measured) -> dict[str, float | str]:
    record = measured.record
    return {
        "base solved": record.base.solved.percent(),
        "trained solved": record.trained.solved.percent(),
        "gain, points": record.decision.solved_difference.points(),
        "base reward, %": 100 * record.base.reward.mean,
        "trained reward": record.trained.reward.percent(),
        "worst late drop, points": 100 * late_drop(record),
        "groups without spread": fmean(reward.frac_zero_std for reward in record.rewards[-10:]),
        "seconds": measured.seconds,
        "processor seconds": measured.processor_seconds,
        "again": measured.again_seconds,
        "peak GiB": measured.peak_gib,
    }


# name: what is varied and how often, least gain in solved, deepest late drop, most seconds
PROMISED = {"tiny_sudoku": ("base", 5, 0.50, 0.05, 600), "tiny_countdown": ("seed", 3, 0.15, 1.0, 900)}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROMISED)
def test_the_experiment_learns(name: str, tmp_path: Path) -> None:
    """What README.md and docs/results.md promise of `make train`, and of Countdown."""
    varied, count, gain, drop, seconds = PROMISED[name]
    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(lambda number: train(name, tmp_path / str(number), **{varied: number}), range(count)))
    gains = [run.record.decision.solved_difference.mean for run in runs]
    worst_first = sorted(range(count), key=lambda number: gains[number])
    show(name, {f"{varied} {number}": row(runs[number]) for number in worst_first})
    for run in runs:
        assert run.record.decision.solved_difference.mean >= gain and run.record.decision.promoted
        assert late_drop(run.record) <= drop
        assert run.seconds <= seconds and run.again_seconds <= 30 and run.peak_gib <= 2
