"""Running `pyflyte` as a person does: in a process, with a home of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYFLYTE = Path(sys.executable).with_name("pyflyte")
SMOKE = ROOT / "configs/smoke.yaml"


@dataclass(frozen=True)
class Outcome:
    """What a person sees of a run."""

    code: int
    text: str

    def folder(self) -> Path:
        """The run's folder, from its last lines."""
        line = next(line for line in self.text.splitlines() if line.startswith("report "))
        return Path(line.split(None, 1)[1]).parent

    def numbers(self) -> dict[str, object]:
        """Everything in the run's record that is no time and no machine's business."""
        record = json.loads((self.folder() / "run.json").read_text())
        return without_times({key: value for key, value in record.items() if key != "config"})

    def rounds_computed(self) -> list[int]:
        """The rounds whose distillation was executed rather than read from the cache."""
        lines = [line.split() for line in self.text.splitlines() if " updates (" in line]
        return [int(words[words.index("round") + 1].rstrip(":")) for words in lines]


def without_times(value: object) -> object:
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if "seconds" not in key}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def environment(home: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("FLYTE", "GDSD"))}
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    return kept | {"HOME": str(home), "TMPDIR": str(home / "tmp"), "FLYTE_SDK_RICH_TRACEBACKS": "0"}


Pyflyte = Callable[..., Outcome]


@pytest.fixture(scope="session")
def pyflyte() -> Pyflyte:
    """Runs a pyflyte command; `home` holds its cache and data."""

    def go(*arguments: str | Path, home: Path, cwd: Path = ROOT) -> Outcome:
        home.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [PYFLYTE, *map(str, arguments)],
            cwd=cwd,
            env=environment(home),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        return Outcome(done.returncode, done.stdout)

    return go


@pytest.fixture
def pyflyte_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pyflyte:
    """Runs a pyflyte command in this process, without a cache; its data lies in `tmp_path / "data"`.

    It saves the seconds of a process's imports; log lines go to this process's own standard error.
    """
    from click.testing import CliRunner
    from flytekit.clis.sdk_in_container.pyflyte import main

    monkeypatch.setenv("FLYTE_LOCAL_CACHE_ENABLED", "0")
    monkeypatch.setenv("FLYTE_SDK_RICH_TRACEBACKS", "0")
    monkeypatch.setenv("GDSD_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(ROOT)

    def go(*arguments: str | Path) -> Outcome:
        done = CliRunner().invoke(main, [*map(str, arguments)])
        return Outcome(done.exit_code, done.output)

    return go


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of the undisturbed smoke run."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def smoke(pyflyte: Pyflyte, home: Path) -> Outcome:
    """The smoke experiment, undisturbed."""
    outcome = pyflyte("run", "workflows/gdsd.py", "train", "--config", SMOKE, home=home)
    assert outcome.code == 0, outcome.text
    return outcome
