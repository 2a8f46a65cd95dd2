"""Cache versions follow the sources that a result depends on, and those sources travel, a person's own too."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.flyte import sources

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/domains/custom.md").read_text()
PRINT_VERSIONS = """
import importlib, sys
for name in sys.argv[1:]:
    module, task = name.split(".")
    print(name, getattr(importlib.import_module(f"tasks.{module}"), task).metadata.cache_version)
"""
UPLOAD = """
import json, sys
from flytekit.tools.script_mode import list_imported_modules_as_files
from tasks.flyte import own_code, sources
from tasks.gdsd.config import loading
from tasks.gdsd.config.prompts import PromptConfig
from tasks.gdsd.errors import ConfigError
config = loading.load(PromptConfig, sys.argv[1])
try:
    own_code.ship_own(config)
except ConfigError as error:
    sys.exit(str(error))
files = list_imported_modules_as_files(str(sources.ROOT), list(sys.modules.values()))
print(json.dumps({"config": config.model_dump_json(), "files": files}))
"""
POD = """
import sys
from tasks.gdsd.config.prompts import PromptConfig
from tasks.gdsd.domains import make
print(make(PromptConfig.model_validate_json(sys.argv[1]).domain).verify("10", "01", "01"))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the sources that a test may edit."""
    for name in ("tasks", "workflows", "images"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def versions(project: Path, *tasks: str) -> dict[str, str]:
    out = subprocess.run(
        [sys.executable, "-c", PRINT_VERSIONS, *tasks], cwd=project, capture_output=True, text=True, check=True
    )
    return dict(line.split() for line in out.stdout.splitlines())


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_an_edited_algorithm_changes_only_the_tasks_that_reach_it(project: Path) -> None:
    """Otherwise an edit is answered from the cache with the old result, or retrains what it does not touch."""
    tasks = (
        "prompts.prepare_prompts",
        "rollout.generate_rollouts",
        "distill.distill_epoch",
        "evaluate.answer_problems",
        "evaluate.verify_answers",
    )
    before = versions(project, *tasks)
    edit(project / "tasks/gdsd/objectives/gdsd.py", "residual.square()", "residual.abs()")
    after = versions(project, *tasks)
    changed = {name for name in tasks if before[name] != after[name]}
    assert changed == {"distill.distill_epoch"}


@pytest.mark.whole
def test_notes_of_an_earlier_process_hide_no_edit(project: Path) -> None:
    """What was read once is not read again; if an edit went unnoticed, it would be answered with old results."""
    writing = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, "-c", "import workflows.gdsd"], cwd=project, env=writing, check=True)
    (file,) = (project / "tasks/flyte/__pycache__").glob("sources.*.json")
    before = versions(project, "distill.distill_epoch", "prompts.prepare_prompts")
    edit(project / "tasks/gdsd/objectives/gdsd.py", "residual.square()", "residual.abs()")
    after = versions(project, "distill.distill_epoch", "prompts.prepare_prompts")
    assert [before[name] == after[name] for name in before] == [False, True]
    file.write_text("{half a")
    assert versions(project, "distill.distill_epoch") == {"distill.distill_epoch": after["distill.distill_epoch"]}


def test_comments_docstrings_resources_and_log_lines_do_not_count(project: Path) -> None:
    """Otherwise correcting a spelling mistake, or asking for more memory, costs a training run."""
    before = versions(project, "distill.distill_epoch")
    edit(project / "tasks/gdsd/distill/loop.py", '"""The update loop', '"""# The loop of updates')
    edit(project / "tasks/gdsd/distill/forward.py", "import torch\n", "# a remark\n\n\nimport torch\n")
    edit(project / "tasks/distill.py", "hours=6", "hours=5")
    edit(project / "images/__init__.py", '"16Gi"', '"24Gi"')
    edit(project / "tasks/gdsd/config/hardware.py", '"h100": 8', '"h100": 4')
    edit(project / "tasks/flyte/hits.py", "from the cache: %s", "taken from the cache: %s")
    edit(project / "tasks/flyte/console.py", "%H:%M:%S", "%H:%M")
    edit(project / "tasks/flyte/folders.py", "HOUR_S = 3600", "HOUR_S = 7200")
    edit(project / "tasks/flyte/retry.py", "this may go away", "it may go away")
    (project / "README.md").write_text("edited")
    assert versions(project, "distill.distill_epoch") == before


def test_reach_follows_imports_inside_functions() -> None:
    """Heavy modules are imported inside task bodies; missing them would give stale results and broken remote runs."""
    reached = sources.reach("tasks.distill")
    assert {
        "tasks.distill",
        "tasks.gdsd.distill.loop",
        "tasks.gdsd.objectives.gdsd",
        "tasks.gdsd.distill.masking",
    } <= reached
    assert "tasks.gdsd.prompts.quality" not in reached


def test_everything_the_workflow_reaches_is_announced_for_upload() -> None:
    """flytekit uploads the files of loaded modules only; a missing one fails in the pod with `No module named`."""
    code = (
        "import sys; from workflows import gdsd; from tasks.flyte.sources import reach\n"
        "files = {getattr(module, '__file__', None) for module in list(sys.modules.values())}\n"
        "import tasks.flyte.sources as s\n"
        "missing = [name for name in reach('workflows.gdsd') if str(s._path(name)) not in files]\n"
        "print(missing, 'torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["[]", "False"]


def reward(folder: Path) -> Path:
    """Writes the documented reward, which now imports a module late and reads a file, and its configuration."""
    package = folder / "my_package"
    package.mkdir(parents=True)
    example, *_ = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    (package / "sorting.py").write_text(example)
    edit(package / "sorting.py", "    generates = True", '    generates = True\n    files = ("data/words.txt",)')
    edit(
        package / "sorting.py",
        "        whole = len",
        "        from .late import words\n\n        words()\n        whole = len",
    )
    (package / "late.py").write_text(
        "import pathlib\n\n\ndef words():\n    return pathlib.Path(__file__).with_name('data')"
    )
    edit(package / "late.py", "with_name('data')", "with_name('data').joinpath('words.txt').read_text()")
    (package / "data").mkdir()
    (package / "data/words.txt").write_text("one\n")
    config = folder / "sorting.yaml"
    config.write_text("domain: {name: custom, path: 'my_package.sorting:Sorting'}\n")
    return config


def upload(config: Path, project: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """What `pyflyte run --remote` makes of a configuration before it asks a cluster."""
    env = os.environ | {"PYTHONPATH": str(project)}
    return subprocess.run([sys.executable, "-c", UPLOAD, config], cwd=cwd, env=env, capture_output=True, text=True)


def test_a_reward_travels_with_all_that_it_reaches(project: Path, tmp_path: Path) -> None:
    """If it fails, a reward that works here is not there in a pod, after the images and the problems were made."""
    config = reward(project / "my experiments/first")
    done = upload(config, project, tmp_path.parent)
    found = json.loads(done.stdout)
    assert "not noticed" not in done.stderr
    pod = tmp_path / "pod"
    for file in map(Path, found["files"]):
        (pod / file.relative_to(project)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, pod / file.relative_to(project))
    assert json.loads(found["config"])["domain"]["folder"] == "project:my experiments/first"
    assert len(set(found["files"])) == len(found["files"])
    project.joinpath("my experiments").rename(project / "elsewhere")
    judged = subprocess.run([sys.executable, "-c", POD, found["config"]], cwd=pod, capture_output=True, text=True)
    assert "solved=True" in judged.stdout, judged.stderr


def test_a_reward_that_would_not_travel_is_refused(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """If it fails, a pod says that there is no such module, and the person sees that there is one."""
    outside = tmp_path_factory.mktemp("outside")
    refused = upload(reward(outside), project, outside).stderr
    assert (
        f"domain: 'my_package.sorting' lies in {outside}, and pods get nothing but the project's folder "
        f"{project}; move it there, or install it in the image"
    ) in refused
    config = reward(project / "experiments")
    (project / "shared").mkdir()
    (project / "shared/beside.py").write_text("")
    edit(config.with_name("my_package") / "late.py", "import pathlib", "import beside\nimport pathlib")
    refused = upload(config, project, project / "shared").stderr
    assert f"domain: 'beside' lies in {project}/shared, and pods look only in {project}/experiments and in" in refused
