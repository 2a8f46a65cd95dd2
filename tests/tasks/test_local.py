"""Where local runs keep their data, and what a vanished result does."""

import subprocess
import sys
from pathlib import Path

import pytest

from tasks.flyte import local

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import os, pathlib, sys
from flytekit import Cache, task, workflow
from flytekit.types.file import FlyteFile
from pydantic import BaseModel
from tasks.flyte.local import forget_vanished_results, new_folder

class Box(BaseModel):
    file: FlyteFile

forget_vanished_results()
forget_vanished_results()  # twice: importing the workflow again must not stack wrappers

@task(cache=Cache(version="1"))
def make(n: int) -> Box:
    print("computed")
    path = new_folder("made") / "file"
    path.write_text(str(n))
    return Box(file=FlyteFile(str(path)))

@workflow
def run(n: int) -> Box:
    return make(n=n)

print("value", pathlib.Path(run(n=3).file.path).read_text())
"""


def run(folder: Path) -> list[str]:
    """Runs the program in a process of its own, with its own home, and returns what it printed."""
    (folder / "program.py").write_text(PROGRAM)
    env = {"HOME": str(folder), "TMPDIR": str(folder), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    out = subprocess.run([sys.executable, "program.py"], cwd=folder, env=env, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    return out.stdout.splitlines()


def test_a_vanished_result_is_computed_again(tmp_path: Path) -> None:
    """After a clean-up of the data folder, flytekit's local cache would hand out paths that lead nowhere."""
    assert run(tmp_path) == ["computed", "value 3"]
    assert run(tmp_path) == ["value 3"]
    (made,) = (tmp_path / ".flyte/gdsd").glob("made-*/file")
    made.unlink()
    assert run(tmp_path) == ["computed", "value 3"]
    assert run(tmp_path) == ["value 3"]


def test_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A small home disk must not stop a run: the data can lie elsewhere."""
    monkeypatch.setenv("GDSD_HOME", str(tmp_path / "elsewhere"))
    assert local.home() == tmp_path / "elsewhere"
    assert local.new_folder("x").parent == tmp_path / "elsewhere"


def test_a_model_that_has_a_path_is_no_file() -> None:
    """If it fails, a result that names a user's own domain counts as vanished, and is computed at every run."""
    file, folder = {"path": "/a/file", "metadata": {}}, {"path": "/a/folder"}
    own = {"name": "custom", "path": "my_package.my_domain:MyDomain", "options": {}, "sha256": "0"}
    assert local._paths({"table": file, "folders": [folder], "domain": own}) == ["/a/file", "/a/folder"]


def test_cleaning_removes_what_runs_made_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, `make clean-runs` takes a person's own files along, or leaves gigabytes of policies."""
    monkeypatch.setenv("GDSD_HOME", str(tmp_path))
    made = [local.new_folder(name) for name in ("run-tiny_sudoku", "policy", "failed-train", "compare-a-b")]
    own = [tmp_path / "samples-final.csv", tmp_path / "policy-notes.txt", tmp_path / "progress-mine" / "notes"]
    page = tmp_path / "progress-tiny_sudoku" / "progress.html"
    for file in (*own, page, made[1] / "checkpoint" / "weights", tmp_path / "registry" / "log"):
        file.parent.mkdir(exist_ok=True)
        file.touch()
    done = subprocess.run(["make", "clean-runs"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert all(folder.name in done.stdout for folder in made) and "notes" not in done.stdout
    assert sorted(left.name for left in tmp_path.iterdir()) == [
        "policy-notes.txt",
        "progress-mine",
        "registry",
        "samples-final.csv",
    ]
