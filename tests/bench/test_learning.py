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


# name: least gain in solved, least mean reward at the end, most seconds
PROMISED = {"tiny_sudoku": (0.50, 0.92, 360), "tiny_countdown": (0.15, 0.25, 600)}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROMISED)
def test_the_experiment_learns(name: str, tmp_path: Path) -> None:
    """What README.md and docs/results.md promise of `make train`, and of Countdown."""
    runs = [train(name, seed, tmp_path / str(seed)) for seed in range(3)]
    head = [
        *("seed", "base solved", "trained solved", "gain, points", "base reward", "trained reward"),
        *("time", "again", "peak memory"),
    ]
    print(f"\n{name}\n| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for run in runs:
        print("| " + " | ".join(row(run)) + " |")
    print(
        json.dumps(
            [
                {
                    "experiment": name,
                    "seed": run.seed,
                    "base_solved": run.record.base.solved.mean,
                    "trained_solved": run.record.trained.solved.mean,
                    "gain": run.record.decision.solved_difference.model_dump(),
                    "trained_reward": run.record.trained.reward.mean,
                    "seconds": round(run.seconds, 1),
                    "peak_gib": round(run.peak_gib, 3),
                }
                for run in runs
            ]
        )
    )
    gain, reward, seconds = PROMISED[name]
    for run in runs:
        assert run.record.base.solved.mean <= 0.20
        assert run.record.decision.solved_difference.mean >= gain and run.record.decision.promoted
        assert run.record.trained.reward.mean >= reward
        assert run.seconds <= seconds and run.again_seconds <= 15 and run.peak_gib <= 2
