"""Running `pyflyte` as a person does, with a home of its own."""

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from flytekit.clis.sdk_in_container.pyflyte import main  # before the workflows, as they find it in a command

from tasks.flyte.console import speak

ROOT = Path(__file__).resolve().parents[2]
PYFLYTE = Path(sys.executable).with_name("pyflyte")
SMOKE = ROOT / "configs/smoke.yaml"


@dataclass(frozen=True)
class Outcome:
    """What a person sees of a run."""

    code: int
    text: str

    def words(self) -> str:
        """The text without its line breaks, and without the frame that pyflyte draws around errors."""
        return " ".join(self.text.replace("│", " ").split())

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
        lines = [line.split() for line in self.text.splitlines() if " tokens/s)" in line]
        return [int(words[words.index("round") + 1]) for words in lines]


def without_times(value: object) -> object:
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if "seconds" not in key}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def environment(home: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("FLYTE", "GDSD"))}
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    return kept | {"HOME": str(home), "TMPDIR": str(home / "tmp"), "FLYTE_SDK_RICH_TRACEBACKS": "0"}


Pyflyte = Callable[..., Outcome]


def run_in_process(
    *arguments: str | Path, home: Path, cwd: Path = ROOT, said: Callable[[str], bool] | None = None
) -> Outcome:
    """Runs a pyflyte command in a process of its own; kills it (-9) at the first line of which `said` is true."""
    process = subprocess.Popen(
        [PYFLYTE, *map(str, arguments)],
        cwd=cwd,
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if said is not None and said(line):
            process.kill()
            break
    return Outcome(process.wait(timeout=300), "".join(lines))


def run_here(*arguments: str | Path, home: Path, cwd: Path = ROOT) -> Outcome:
    """Runs a pyflyte command in this process, which saves the seconds of a process's imports."""
    from click.testing import CliRunner
    from flytekit.core.local_cache import LocalTaskCache

    speak()
    lines = io.StringIO()
    log = logging.StreamHandler(lines)
    project = logging.getLogger("tasks")
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ.keys() - environment(home).keys():
            patch.delenv(name)
        for name, value in environment(home).items():
            patch.setenv(name, value)
        patch.chdir(cwd)
        patch.setattr(LocalTaskCache, "_initialized", False)  # opened in this home
        project.addHandler(log)
        try:
            done = CliRunner().invoke(main, [*map(str, arguments)])
        finally:
            project.removeHandler(log)
            if LocalTaskCache._initialized:
                LocalTaskCache._cache.close()
    return Outcome(done.exit_code, lines.getvalue() + done.output)


@contextmanager
def quick_runs(data: Path) -> Iterator[pytest.MonkeyPatch]:
    """Lets workflows run in this process uncached, without data checks, which take the most of so small a run."""
    from tasks.gdsd.prompts import expectations

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLYTE_LOCAL_CACHE_ENABLED", "0")
        patch.setenv("GDSD_HOME", str(data))
        patch.setattr(expectations, "validate", lambda *arguments: [])
        yield patch


@pytest.fixture(scope="session")
def pyflyte() -> Pyflyte:
    """Runs a pyflyte command; `home` holds its cache and data."""
    return run_here


@pytest.fixture
def pyflyte_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pyflyte:
    """Runs a pyflyte command without a cache; its data lies in `tmp_path / "data"`."""
    from click.testing import CliRunner

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
