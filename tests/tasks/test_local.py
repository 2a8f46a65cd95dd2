"""What becomes of a local run whose cached results have vanished or are damaged."""

import subprocess
import sys
from pathlib import Path

from diskcache import Cache

from tasks.flyte import local_cache

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import os, pathlib, sys
from flytekit import Cache, task, workflow
from flytekit.types.file import FlyteFile
from pydantic import BaseModel
from tasks.flyte import folders
from tasks.flyte.local import new_folder
from tasks.flyte.local_cache import check_results
from tasks.gdsd.errors import StorageError

class Box(BaseModel):
    file: FlyteFile

check_results()
check_results()  # twice: importing the workflow again must not stack wrappers

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
try:
    print("removed", *folders.clean(folders.home()))
except StorageError:
    print("held")
"""


def run(folder: Path) -> list[str]:
    """Runs the program in a process of its own, with its own home, and returns what it printed."""
    (folder / "program.py").write_text(PROGRAM)
    env = {"HOME": str(folder), "TMPDIR": str(folder), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    out = subprocess.run([sys.executable, "program.py"], cwd=folder, env=env, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    return out.stdout.splitlines()


def test_a_vanished_or_damaged_result_is_computed_again(tmp_path: Path) -> None:
    """After a clean-up of the data folder, flytekit's local cache would hand out paths that lead nowhere.

    So would half an entry, which a full disk leaves, end each run. And `make clean-runs` must leave what a run that has
    made nothing yet has found there.
    """
    assert run(tmp_path) == ["computed", "value 3", "held"]
    assert run(tmp_path) == ["value 3", "held"]
    (made,) = (tmp_path / ".flyte/gdsd").glob("made-*/file")
    made.unlink()
    assert run(tmp_path) == ["computed", "value 3", "held"]
    assert run(tmp_path) == ["value 3", "held"]
    with Cache(str(tmp_path / ".flyte/local-cache")) as cache:
        for key in cache:
            cache[key] = b"\xff of something else"
    assert run(tmp_path) == ["computed", "value 3", "held"]


def test_a_model_that_has_a_path_is_no_file() -> None:
    """If it fails, a result that names a user's own domain counts as vanished, and is computed at every run."""
    file, folder = {"path": "/a/file", "metadata": {}}, {"path": "/a/folder"}
    own = {"name": "custom", "path": "my_package.my_domain:MyDomain", "options": {}, "sha256": "0"}
    assert local_cache._paths({"table": file, "folders": [folder], "domain": own}) == ["/a/file", "/a/folder"]
