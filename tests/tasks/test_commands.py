"""Commands that people paste."""

import shlex
import sys
from pathlib import Path

import pytest

from tasks.flyte import commands

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("is_found", [True, False])
def test_a_command_works_in_any_folder(is_found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, what a run says has to be edited before it can be pasted."""
    own = Path(sys.executable).with_name("pyflyte")
    monkeypatch.setenv("PATH", str(own.parent) if is_found else str(tmp_path))
    monkeypatch.chdir(tmp_path)
    words = shlex.split(commands.run("workflows/gdsd.py", "train", "--config", "/my runs/it's; `here`.yaml"))
    assert words == [
        "pyflyte" if is_found else str(own),
        "run",
        str(ROOT / "workflows/gdsd.py"),
        "train",
        "--config",
        "/my runs/it's; `here`.yaml",
    ]


def test_another_pyflyte_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a command runs by the packages of some other environment."""
    other = tmp_path / "pyflyte"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shlex.split(commands.run("workflows/gdsd.py", "train"))[0] == str(Path(sys.executable).with_name("pyflyte"))
