"""Local runs whose paths have unusual characters, and whose cache or home cannot be used."""

import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from diskcache import Cache

from tests.workflows.conftest import PYFLYTE, ROOT, SMOKE, Outcome, Pyflyte, environment, run_in_process


@pytest.mark.parametrize(
    ("target", "variable"),
    [
        ("train", "CONFIG"),
        ("check", "CONFIG"),
        ("describe", "CONFIG"),
        ("evaluate", "POLICY"),
        ("champion", "REGISTRY"),
    ],
)
def test_make_takes_any_path(target: str, variable: str) -> None:
    """If it fails, a path with a space is two paths, and one with a quote or a semicolon a command."""
    for path in ("my folder/it's; `here` $HOME.yaml", "plain.yaml", "$x", "~/my config.yaml"):
        command = ["make", "-n", "--no-print-directory", "-o", ".venv/.ready", target, f"{variable}={path}"]
        line = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        words = subprocess.run(
            ["sh", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True
        ).stdout
        assert words.split("\0")[-2] == (str(Path(path).expanduser()) if path.startswith("~") else path)
        assert len(shlex.split(line)) == len(words.split("\0")) - 1


def test_make_takes_changed_fields() -> None:
    """If it fails, `make train SET=...` trains without the change, or its braces are the shell's."""
    for target in ("train", "describe"):
        changes = "rollout.group_size=8 prompts.domain={name:countdown} name='a'"
        command = ["make", "-n", "--no-print-directory", "-o", ".venv/.ready", target, f"SET={changes}"]
        line = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        options = [word for change in changes.split() for word in ("--set", change)]
        assert shlex.split(line)[-6:] == options


def half(folder: Path) -> None:
    """A cache whose second half a full disk did not take."""
    with Cache(str(folder)) as cache:
        for number in range(100):
            cache[number] = "x" * 1000
    whole = (folder / "cache.db").read_bytes()
    (folder / "cache.db").write_bytes(whole[: len(whole) // 2])


def foreign(folder: Path) -> None:
    """A file of something else."""
    folder.mkdir(parents=True)
    (folder / "cache.db").write_bytes(b"no database" * 1000)


def no_file(folder: Path) -> None:
    """A folder where the file should be."""
    (folder / "cache.db").mkdir(parents=True)


def no_folder(folder: Path) -> None:
    """A file where the folder should be."""
    folder.parent.mkdir(parents=True)
    folder.touch()


def refused(outcome: Outcome, home: Path) -> bool:
    """Whether a person is told in a few lines what cannot be used, and what to do."""
    said = outcome.words()
    assert outcome.code != 0 and "Traceback" not in said and len(outcome.text.splitlines()) < 16, outcome.text
    assert f"{home}/.flyte/local-cache" in said.replace(" ", "") and "remove that folder" in said, outcome.text
    return "set HOME to a folder on another" in said


def test_publishing_by_itself_begins_and_ends_as_a_run_does(tmp_path: Path) -> None:
    """If it fails, a later `publish` leaves folders behind, or takes one of two repositories for the other."""
    twice = '{"hub": {"repo": "a/b", "repo": "a/c"}}'
    words = ["run", "workflows/publish.py", "publish", "--folder", str(tmp_path), "--publish", twice]
    outcome = run_in_process(*words, home=tmp_path)
    assert outcome.code != 0 and "'repo' stands twice" in outcome.words(), outcome.text
    assert not list((tmp_path / "tmp").iterdir())


@pytest.mark.parametrize("damage", [half, foreign, no_file, no_folder])
def test_a_damaged_cache_is_said_in_a_sentence(
    damage: Callable[[Path], None], pyflyte: Pyflyte, tmp_path: Path
) -> None:
    """If it fails, a power cut leaves a run that ends in a screen of a library's code each time."""
    damage(tmp_path / ".flyte/local-cache")
    assert refused(pyflyte("run", "workflows/gdsd.py", "train", "--config", SMOKE, home=tmp_path), tmp_path)


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap, which makes a folder read-only to root too")
def test_a_home_that_cannot_be_written_is_said_in_a_sentence(tmp_path: Path) -> None:
    """If it fails, a run on a machine with a read-only home ends in a screen of a library's code."""
    variables = environment(tmp_path)
    tied = ["bwrap", "--dev-bind", "/", "/", "--ro-bind", str(tmp_path), str(tmp_path)]
    tied += ["--bind", variables["TMPDIR"], variables["TMPDIR"], "--"]
    train = [str(PYFLYTE), "run", "workflows/gdsd.py", "train", "--config", str(SMOKE)]
    for more, sentence in (
        ({}, "set HOME to a folder on another"),
        ({"FLYTE_LOCAL_CACHE_ENABLED": "0"}, "set GDSD_HOME to a folder that does"),
    ):
        done = subprocess.run(
            [*tied, *train], cwd=ROOT, env=variables | more, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        said = Outcome(done.returncode, done.stdout)
        assert said.code != 0 and sentence in said.words() and "Traceback" not in said.text, said.text
        assert "Read-only file system" in said.words() and len(said.text.splitlines()) < 16
