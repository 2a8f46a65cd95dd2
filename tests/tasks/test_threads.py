"""A task in a pod computes with as many threads as its container may use cores."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.flyte import local, retry

ROOT = Path(__file__).resolve().parents[2]
V1 = "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"
PROGRAM = """
import sys
from pathlib import Path
from flytekit import task
from tasks.flyte import local
from tasks.flyte.retry import retried
from tests.tasks.pods import attempt

local.CGROUP = Path(sys.argv[1])

@task
@retried
def count() -> int:
    import torch

    return torch.get_num_threads()

done = attempt(count, Path(sys.argv[2]))
print(done.outputs.literals["o0"].scalar.primitive.integer)
"""


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "400000 100000"}, 4),
        ({"cpu.max": "250000 100000"}, 3),
        ({"cpu.max": "10000 100000"}, 1),
        ({"cpu.max": "max 100000"}, None),
        (dict(zip(V1, ("800000", "100000"), strict=True)), 8),
        (dict(zip(V1, ("50000", "100000"), strict=True)), 1),
        (dict(zip(V1, ("-1", "100000"), strict=True)), None),
        ({"cpu/cpu.cfs_quota_us": "100000"}, None),
        ({}, None),
    ],
)
def test_a_limit_is_read_from_either_kind_of_control_group(
    files: dict[str, str], cores: int | None, tmp_path: Path
) -> None:
    """If it fails, threads outnumber the cores of some clusters, or a machine without a limit computes with one."""
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    assert local.core_limit(tmp_path) == cores


def limit(root: Path, cores: int) -> None:
    (root / "cpu.max").write_text(f"{cores}00000 100000\n")


def test_torch_has_a_thread_for_each_core_of_the_limit(tmp_path: Path) -> None:
    """If it fails, a pod of few cores on a large node crawls, and its numbers round as the node has cores."""
    limit(tmp_path, 1)  # torch takes no more than the machine has
    (tmp_path / "program.py").write_text(PROGRAM)
    kept = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "program.py", str(tmp_path), str(tmp_path / "attempt")],
        cwd=tmp_path,
        env=kept | {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) == 1


@pytest.mark.parametrize(("pod", "own", "left"), [(True, "2", "2"), (True, None, "3"), (False, None, None)])
def test_a_users_own_number_and_local_runs_are_left_alone(
    pod: bool, own: str | None, left: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, a number in a pod template has no effect, or a laptop computes with fewer threads than it has."""
    limit(tmp_path, 3)
    monkeypatch.setattr(local, "CGROUP", tmp_path)
    monkeypatch.setattr(retry, "in_pod", lambda: pod)
    monkeypatch.setattr(retry, "speak", lambda: None)
    monkeypatch.setenv("OMP_NUM_THREADS", own or "")  # which is put back at the end
    if own is None:
        monkeypatch.delenv("OMP_NUM_THREADS")

    @retry.retried
    def threads() -> str | None:
        return os.environ.get("OMP_NUM_THREADS")

    assert threads() == left
