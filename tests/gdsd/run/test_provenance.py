"""Where a run came from is what it says."""

import html
import shutil
import subprocess
from pathlib import Path

import pytest

from tasks.gdsd.report import elsewhere
from tasks.gdsd.run import provenance
from tasks.gdsd.run.provenance import Execution, SourceState
from tests.gdsd.report.records import ORIGIN, pairs, record, rendered


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    return subprocess.run(
        ["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git here")
def test_the_state_of_a_checkout(tmp_path: Path) -> None:
    """If it fails, a result is taken for that of a commit whose code it was not made by."""
    assert provenance.source_state(tmp_path) is None
    git(tmp_path, "init", "-q")
    assert provenance.source_state(tmp_path) is None, "nothing is committed yet"
    (tmp_path / "a.py").write_text("1\n")
    git(tmp_path, "add", "a.py")
    git(tmp_path, "commit", "-q", "-m", "a")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert provenance.source_state(tmp_path) == SourceState(commit=commit, clean=True)
    (tmp_path / "b.py").write_text("2\n")
    assert provenance.source_state(tmp_path) == SourceState(commit=commit, clean=False)
    (tmp_path / "site-packages").mkdir()
    assert provenance.source_state(tmp_path / "site-packages") is None, "an installation inside another's checkout"


def test_a_run_says_what_is_installed_how_to_repeat_it_and_where_it_came_from(tmp_path: Path) -> None:
    """If it fails, a result cannot be made again, or its code and execution not be found."""
    where = Execution(project="p", domain="d", name="abc", image="registry/gdsd:cpu", version="v1")
    local = provenance.record(tmp_path, "1" * 64, None, "2" * 64, "3" * 64, "4" * 64, "pyflyte run")
    assert local.packages["pydantic"] and local.python.startswith("3.") and local.source is None
    state = SourceState(commit="c0ffee", clean=False)
    page = rendered(record(), pairs(), ORIGIN.model_copy(update={"source": state, "execution": where}))
    said = ["c0ffee, with changes", "git checkout c0ffee", "abc in p, d", "<td>gdsd:cpu", "v1", "5" * 64, "b" * 64]
    assert "registry" not in page, "a tracker is told of the page"
    for words in (*said, "c" * 64, "d" * 64, "tqdm", "torch 2.13.0", "1970-01-01 00:16 UTC", ORIGIN.command):
        assert words in page
    assert "no checkout" in rendered(record(), pairs()) and "without a cluster" in rendered(record(), pairs())


def test_a_page_names_folders_on_its_own_machine_only() -> None:
    """If it fails, the command on a page works nowhere, or a tracker learns who trains where."""
    command = "pyflyte run '/home/ann/my gdsd/workflows/gdsd.py' train --config /home/ann/run/config.yaml"
    page = rendered(record(), pairs(), ORIGIN.model_copy(update={"command": command}))
    assert f"{html.escape(command)}</pre>" in page and "<pre>pyflyte" not in page
    told = elsewhere(page)
    assert "/home/ann" not in told and "<pre>pyflyte run workflows/gdsd.py train --config config.yaml</pre>" in told
    assert len(page) - len(told) < 400, "only the command"
