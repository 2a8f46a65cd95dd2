"""Which folders are a run's own, and what `make clean-runs` takes."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks import clean
from tasks.flyte import folders
from tasks.gdsd.errors import StorageError

ROOT = Path(__file__).resolve().parents[2]
RUN = """
import os, pathlib, sys, tempfile, time
from tasks.flyte import folders
other = pathlib.Path(tempfile.mkdtemp(prefix="flyte-"))
folders.gather([other])
file = pathlib.Path(tempfile.mkdtemp()) / "model"
file.touch()
print(other, file.parent.parent, folders.new("policy"), flush=True)
if (copy := os.fork()) == 0:
    sys.exit()  # runs what is registered for the end
os.waitpid(copy, 0)
assert file.exists()
if sys.argv[1:]:
    time.sleep(3600)
"""


def test_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A small home disk must not stop a run: the data can lie elsewhere."""
    monkeypatch.setenv("GDSD_HOME", str(tmp_path / "elsewhere"))
    assert folders.home() == tmp_path / "elsewhere"
    monkeypatch.setenv("GDSD_HOME", "~nobody-of-this-name/elsewhere")
    assert folders.home() == Path("~nobody-of-this-name/elsewhere").absolute(), "as a shell has it"
    monkeypatch.setenv("GDSD_HOME", str(tmp_path / "elsewhere"))
    assert folders.new("x").parent == tmp_path / "elsewhere"


def run(*words: str) -> tuple[subprocess.Popen[str], list[Path]]:
    """A run that waits, if it is told to; and its two temporary folders and one with data."""
    process = subprocess.Popen([sys.executable, "-c", RUN, *words], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, [Path(name) for name in process.stdout.readline().split()]


def make_clean() -> tuple[int, str]:
    """The status of `make clean-runs`, and what it says."""
    done = subprocess.run(["make", "clean-runs"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


def test_cleaning_removes_what_runs_made_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, `make clean-runs` takes a person's own files or a run's that goes on, or leaves gigabytes behind."""
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("GDSD_HOME", str(home))
    monkeypatch.setenv("TMPDIR", str(temporary))
    assert make_clean()[0] == 0  # where no run has been yet
    monkeypatch.setattr(folders, "use", lambda: None)  # as if another process, which has ended, had made these
    made = [folders.new(name) for name in ("run-tiny_sudoku", "policy", "failed-train", "compare-a-b")]
    made.append(folders.named("progress-x-20260101-120000-0123abcd"))
    own = ["samples-final.csv", "policy-notes/text", "run-mine/policy", "progress-mine/notes", "registry/log"]
    # Renamed or copied, or of an earlier version.
    alike = [f"{name}-20261130-120000-0123abcd/mine" for name in ("keep-run-smoke", "best run-smoke", "run-smoke")]
    own += alike
    for file in (made[1] / "checkpoint" / "weights", *(home / name for name in own)):
        file.parent.mkdir(exist_ok=True)
        file.touch()
    (home / "run-elsewhere-20260101-120000-0123abcd").symlink_to(tmp_path)

    ended, ended_folders = run()
    assert ended.wait() == 0 and not any(folder.exists() for folder in ended_folders[:2])
    killed, killed_folders = run("wait")
    live, live_folders = run("wait")
    try:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        others = [temporary / "flyte-of-another-program", temporary / "gdsd-notes"]
        for folder in others:
            folder.mkdir()
        status, said = make_clean()
        assert status != 0 and "a run that is going on has its data in" in said
        assert all(folder.name in said for folder in killed_folders[:2])
        assert sorted(temporary.iterdir()) == sorted([*live_folders[:2], *others])
        assert all(folder.exists() for folder in (*made, *live_folders))
    finally:
        live.kill()
        live.wait()
    status, said = make_clean()
    removed = [*made, ended_folders[2], killed_folders[2], *live_folders]
    assert status == 0 and all(f"\n{path}\n" in f"\n{said}" for path in removed) and "mine" not in said
    assert [line.split(",")[0] for line in said.splitlines() if line.startswith("left ")] == [
        f"left {(home / name).parent}" for name in sorted(alike)
    ]
    assert sorted(temporary.iterdir()) == sorted(others) and not os.listdir(home / folders.LIST)
    kept = {name.split("/")[0] for name in own} | {"run-elsewhere-20260101-120000-0123abcd"}
    assert {path.name for path in home.iterdir()} == kept | {folders.LIST} and all(
        (home / name).exists() for name in own
    )


def test_nothing_is_removed_where_nothing_can_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, `make clean-runs` takes the data of a run that goes on from a disk without locks."""
    monkeypatch.setenv("GDSD_HOME", str(tmp_path))

    def flock(file: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    made = folders.new("policy")
    with pytest.raises(StorageError, match=r"No locks available.*by hand"):
        list(folders.clean(tmp_path))
    assert made.is_dir()


def test_what_cannot_be_removed_stays_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If it fails, what a thread writes while its run ends stays for ever, or is called removed, or keeps the rest."""
    monkeypatch.setenv("GDSD_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(folders, "use", lambda: None)  # as if another process, which has ended, had made these
    held, made = (folders.named(f"{name}-20260101-120000-0123abcd") for name in ("a", "b"))
    (held / "busy").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = tmp_path / "gdsd-left"
    for name in ("busy", "quiet"):
        (left / name).mkdir(parents=True)
    (left / folders.MARK).touch()
    remove = shutil.rmtree

    def busily(path: Path, ignore_errors: bool) -> None:
        if path.name != "busy" and path != held:
            remove(path)

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", busily)
        assert clean.main() == 1
    said = capsys.readouterr()
    assert said.out == f"{made}\n" and [line.split()[0] for line in said.err.splitlines()] == [str(left), str(held)]
    assert sorted(os.listdir(left)) == [folders.MARK, "busy"]
    assert clean.main() == 0 and not left.exists() and not held.exists()
    assert capsys.readouterr().out.startswith(f"{left}\n{held}\nremoved 2 of")


def test_a_run_removes_what_killed_ones_have_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, each run that is killed leaves a folder for ever, or a link there leads to other files."""
    monkeypatch.setenv("GDSD_HOME", str(tmp_path / "home"))
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    killed, left = run("wait")
    killed.kill()
    killed.wait()
    outside = left[0].rename(tmp_path / "outside")
    (temporary / "flyte-link").symlink_to(outside)
    again, _ = run()
    assert again.wait() == 0
    assert os.listdir(temporary) == ["flyte-link"] and (outside / folders.MARK).exists()


def test_folders_that_a_start_was_cut_off_in_go_after_an_hour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, each run that is stopped in its first seconds leaves folders for ever, or another program loses its.

    flytekit makes two when it is imported, before anything can mark them.
    """
    monkeypatch.setenv("GDSD_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    forgotten = ["flyte-z5ogz7n_/sandbox/local_flytekit/engine_dir", "flytekycetjsu/user_space"]
    young = "flyte-abcdefg1/sandbox"
    others = ["flyte-of-another-program/sandbox", "flyteabcdefg2/user_space/file", "flyteabcdefg3/link"]
    for name in (*forgotten, young, *others):
        (tmp_path / name).mkdir(parents=True)
    for name in others[1:]:
        (tmp_path / name).rmdir()
    (tmp_path / others[1]).touch()
    (tmp_path / others[2]).symlink_to(tmp_path)
    old = time.time() - folders.HOUR_S - 60
    for name in (*forgotten, *others):
        os.utime(tmp_path / name.split("/")[0], (old, old))
    assert clean.main() == 0
    assert sorted(os.listdir(tmp_path)) == sorted(name.split("/")[0] for name in (young, *others))
