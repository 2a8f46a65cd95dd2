"""The failure nodes: what they keep, that it cannot do harm, and that the error stays the error."""

import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from flytekit import PythonFunctionTask, task, workflow
from flytekit.types.directory import FlyteDirectory
from flytekit.types.error import FlyteError

from tasks import failure
from tasks.failure import Failure
from tasks.gdsd.config.compare import CompareConfig
from tasks.gdsd.config.evaluate import EvaluateConfig
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.errors import StaleError
from tasks.gdsd.registry.registry import Registry
from tests.gdsd.registry.test_registry import add, make_policy, promote
from tests.tasks.pods import attempt

HOSTILE = "Trace:\n  DataError: '</pre><script>alert(1)</script>' & \"more\""
MOMENT = datetime(2026, 3, 1, 2, tzinfo=UTC)
# task: (inputs beside `err`, workflow, name of the experiment, options of the command to go on)
NODES: dict[str, tuple[dict[str, object], str, str | None, list[str]]] = {
    "record_train_failure": ({"config": TrainConfig(name="night")}, "train", "night", []),
    "record_compare_failure": ({"config": CompareConfig(name="race")}, "compare", "race", []),
    "record_evaluate_failure": (
        {"config": EvaluateConfig(seed=3), "policy": FlyteDirectory("s3://bucket/policy")},
        "evaluate",
        None,
        ["--policy", "s3://bucket/policy"],
    ),
    "record_retrain_failure": (
        {"config": TrainConfig(name="night"), "registry": "s3://bucket/a b", "kickoff_time": MOMENT},
        "retrain",
        "night",
        ["--registry", "s3://bucket/a b", "--kickoff_time", "2026-03-01T02:00:00"],
    ),
    "record_evaluate_champion_failure": (
        {"config": EvaluateConfig(), "registry": "s3://bucket/a b", "kickoff_time": MOMENT},
        "evaluate_champion",
        None,
        ["--registry", "s3://bucket/a b", "--kickoff_time", "2026-03-01T02:00:00"],
    ),
}


@pytest.mark.parametrize("name", NODES)
def test_a_pod_keeps_what_failed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a run that failed at night leaves a message that is gone with its pod, or that runs in a page."""
    for variable, value in {"PROJECT": "p", "DOMAIN": "d", "ID": "f00"}.items():
        monkeypatch.setenv(f"FLYTE_INTERNAL_EXECUTION_{variable}", value)
    inputs, workflow_name, experiment, options = NODES[name]
    found = attempt(getattr(failure, name), tmp_path, err=FlyteError(HOSTILE, "n2"), **inputs)
    assert found.error is None and found.outputs is not None
    (kept,) = (tmp_path / "raw").rglob("failure.json")
    record = Failure.model_validate_json(kept.read_text())
    assert (record.workflow, record.experiment, record.node) == (workflow_name, experiment, "n2")
    assert (record.message, record.execution, record.task) == (HOSTILE, "p:d:f00", None)
    assert abs((datetime.now(UTC) - record.time).total_seconds()) < 60
    words = shlex.split(record.go_on)
    assert words[:7] == ["pyflyte", "run", "--remote", "-p", "p", "-d", "d"] and words[8] == workflow_name
    assert Path(words[7]).is_file() and words[9:] == [*options, "--config", "config.json"]
    config = inputs["config"]
    assert isinstance(config, TrainConfig | CompareConfig | EvaluateConfig)
    assert type(config).model_validate_json((kept.parent / "config.json").read_text()) == config
    deck = (tmp_path / "outputs" / "deck.html").read_text()
    assert "alert(1)" in deck and "<script>alert(1)" not in deck and str(kept.parent) in deck


def test_a_stale_night_goes_on_as_another_one(tmp_path: Path) -> None:
    """If it fails, the command of a night that was overtaken is refused again, at once and for ever."""
    registry = Registry(str(tmp_path / "registry"))
    promote(registry, tmp_path / "a", "a")
    late = add(registry, make_policy(tmp_path / "late", "late"))
    with pytest.raises(StaleError) as stale:
        registry.promote(late, against=None, who="night", why="better")
    inputs, *_ = NODES["record_retrain_failure"]
    found = attempt(
        failure.record_retrain_failure, tmp_path, err=FlyteError(f"Trace:\n  {stale.value}", "n2"), **inputs
    )
    assert found.error is None
    (kept,) = (tmp_path / "raw").rglob("failure.json")
    assert "--kickoff_time now " in Failure.model_validate_json(kept.read_text()).go_on


def test_flyte_may_give_no_reason(tmp_path: Path) -> None:
    """If it fails, the failure node fails, and its error is what the execution shows."""
    assert attempt(failure.record_train_failure, tmp_path, config=TrainConfig()).error is None
    (kept,) = (tmp_path / "raw").rglob("failure.json")
    assert Failure.model_validate_json(kept.read_text()).node is None


class Broken(Exception):
    """What fails here."""


@task
def breaks(config: TrainConfig) -> int:
    """A stage that fails."""
    if config.seed == 0:
        raise Broken("the stage's own words")
    return config.seed


@workflow(on_failure=failure.record_train_failure)
def run(config: TrainConfig = TrainConfig(name="here")) -> int:
    """A workflow of one stage, which fails."""
    return breaks(config=config)


def test_a_local_run_keeps_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a person has to find the task in a traceback, and the configuration in the shell's history."""
    monkeypatch.setenv("GDSD_HOME", str(tmp_path))
    with pytest.raises(Broken, match="the stage's own words"):
        run()
    (kept,) = tmp_path.glob("failed-here-*/failure.json")
    record = Failure.model_validate_json(kept.read_text())
    assert record.task == "tests.tasks.test_failure.breaks" and record.node is None and record.execution is None
    words = shlex.split(record.go_on)
    assert Path(words[-4]).is_absolute() and Path(words[-4]).is_file() and words[-3] == "train"
    assert words[-2:] == ["--config", str(kept.with_name("config.json"))]


def test_a_local_command_to_go_on_names_whole_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, it works only where the run was started."""
    monkeypatch.setenv("GDSD_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my policy").mkdir()
    failure.record_evaluate_failure(policy=FlyteDirectory("my policy"), config=EvaluateConfig(), err=None)
    failure.record_retrain_failure(config=TrainConfig(), registry="registry", kickoff_time=MOMENT, err=None)
    found = {Failure.model_validate_json(kept.read_text()) for kept in tmp_path.glob("data/failed-*/failure.json")}
    words = {one.workflow: shlex.split(one.go_on) for one in found}
    assert str(tmp_path / "my policy") in words["evaluate"] and str(tmp_path / "registry") in words["retrain"]


@pytest.mark.parametrize("where", ["local", "pod"])
def test_a_failure_that_cannot_be_kept_hides_nothing(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, a full disk is reported instead of what was wrong with the run."""

    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(failure, "new_folder", full)
    if where == "local":
        with pytest.raises(Broken):
            run()
    else:
        found = attempt(failure.record_train_failure, tmp_path, config=TrainConfig(), err=FlyteError("x", "n0"))
        assert found.error is None


def test_there_is_a_node_for_each_workflow() -> None:
    """If it fails, a workflow has none."""
    found = {name for name, value in vars(failure).items() if isinstance(value, PythonFunctionTask)}
    assert found == set(NODES)
