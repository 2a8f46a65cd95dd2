"""What happens to a run beyond its folder: trackers and the hub as a user configures them, in this process.

The hub is a server on this machine; TensorBoard writes into a folder.
"""

import json
import logging
import os
import re
import shlex
import signal
from collections import OrderedDict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from flyteidl.core.dynamic_job_pb2 import DynamicJobSpec
from flytekit import PythonFunctionTask
from flytekit.exceptions.user import FlyteUserRuntimeException
from flytekit.tools.translator import get_serializable
from flytekit.types.directory import FlyteDirectory

from tasks import publish as stage
from tasks.flyte import console
from tasks.gdsd.config.publish import PublishConfig
from tasks.gdsd.errors import PublishError
from tasks.gdsd.records import Delivery, Estimate, Progress
from tasks.gdsd.registry.kept import Night
from tasks.gdsd.run.run_record import RunRecord
from tasks.promote import RetrainResult
from tasks.report import RunResult
from tests.gdsd.fake_hub import TOKEN, FakeHub, use
from tests.gdsd.series import epoch, reward
from tests.workflows.conftest import Pyflyte, quick_runs, run_in_process
from tests.workflows.test_compiled import CPU, SETTINGS, leg_inputs, unroll
from tests.workflows.test_retrain import CONFIG
from workflows.rounds import run_leg

# task: the secret that it asks for
TASKS = {
    "track_run": [],
    "track_in_wandb": ["wandb_api_key"],
    "track_in_mlflow": ["mlflow_tracking_token"],
    "push_policy": ["hf_token"],
}


PUBLISH = ("run", "workflows/publish.py", "publish")


def publish(**values: object) -> PublishConfig:
    return PublishConfig.model_validate_json(json.dumps(values))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, FakeHub, Path]]:
    """A run of `train` that is told to TensorBoard and pushed whatever the gate says: its folder, hub and events."""
    from workflows.gdsd import train

    events = tmp_path_factory.mktemp("events")
    told = publish(
        trackers=[{"name": "tensorboard", "folder": str(events)}], hub={"repo": "org/policy", "when": "always"}
    )
    with FakeHub() as hub, quick_runs(tmp_path_factory.mktemp("data")) as patch:
        patch.setenv("HF_TOKEN", TOKEN)
        use(patch, hub)
        result = train(config=CONFIG.model_copy(update={"publish": told}))
        assert not result.record.decision.promoted
        yield Path(os.fspath(result.folder)), hub, events


def test_a_run_is_told_of_and_pushed_at_its_end(run: tuple[Path, FakeHub, Path]) -> None:
    """If it fails, what was configured does not happen, and nobody is told."""
    folder, hub, events = run
    assert [path.name.startswith("nightly-") for path in events.iterdir()] == [True]
    files = hub.files["org/policy"]
    assert b"# nightly" in files["README.md"] and b"snapshot_download('org/policy')" in files["README.md"]
    assert files["model.safetensors"] == (folder / "policy/model.safetensors").read_bytes()
    assert not {"samples.parquet", "report.html"} & {*files}
    kept = [path for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in kept if TOKEN.encode() in path.read_bytes()]


def test_only_a_promoted_policy_is_pushed_unless_it_is_said_otherwise(run: tuple[Path, FakeHub, Path]) -> None:
    """If it fails, a policy that is no better than what is served takes its place on the hub."""
    from workflows.publish import publish as publish_run

    folder, hub, _ = run
    before = len(hub.asked)
    found = publish_run(folder=FlyteDirectory(str(folder)), publish=publish(hub={"repo": "org/policy"}))
    assert found.deliveries == [] and len(hub.asked) == before


def test_a_training_whose_deliveries_fail_is_a_good_training(
    pyflyte_here: Pyflyte, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, an outage makes a training look failed, keeps the others from hearing, or costs the run.

    As a person does it: `pyflyte run` without -v, then the commands that it names. A damaged database raises what no
    tracker expects, a folder that is none is refused, nobody answers at the third address, and the hub says no.
    """
    monkeypatch.setattr(stage, "WAITS", (0.0,))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    (tmp_path / "damaged.db").write_text("this is no database")
    (tmp_path / "file").write_text("")
    failing = [
        {"name": "mlflow", "uri": f"sqlite:///{tmp_path}/damaged.db"},
        {"name": "tensorboard", "folder": str(tmp_path / "file/it's here")},
        {"name": "mlflow", "uri": "http://127.0.0.1:9"},
    ]
    told = publish(
        trackers=[*failing, {"name": "tensorboard", "folder": str(tmp_path / "events")}],
        hub={"repo": "org/new", "when": "always"},
    )
    config = CONFIG.model_copy(update={"publish": told}).model_dump_json()
    with FakeHub() as hub, quick_runs(tmp_path / "data") as patch:
        use(patch, hub)
        hub.failures["/api/repos/create"] = [403]
        outcome = pyflyte_here("run", "workflows/gdsd.py", "train", "--config", config)
        assert outcome.code == 0 and "Traceback" not in outcome.text, outcome.text
        assert not list((tmp_path / "data").glob("failed-*"))
        lines = outcome.text.splitlines()
        begin = next(place for place, line in enumerate(lines) if line.startswith("base "))
        words = [line.split()[0] for line in lines[begin:]]
        assert words[-10:] == ["policy", "published", *["not", "repeat"] * 4]
        said = [line for line in lines if line.startswith("not sent")]
        for line, reason in zip(
            said,
            (
                "DatabaseError: (sqlite3.DatabaseError) file is not a database",
                "cannot be written to",
                "mlflow at http://127.0.0.1:9: it does not answer",
                "does not let this token write to org/new (403",
            ),
            strict=True,
        ):
            assert reason in line and TOKEN not in line, line
        assert len([*(tmp_path / "events").iterdir()]) == 1 and "org/new" not in hub.files
        damaged, blocked, _, pushed = (
            shlex.split(line.removeprefix("repeat ")) for line in lines if line.startswith("repeat ")
        )
        (tmp_path / "file").unlink()
        for command, code, answer in (
            (pushed, 0, f"published {hub.url}/org/new/commit/"),
            (blocked, 0, f"published tensorboard --logdir {shlex.quote(failing[1]['folder'])}"),
            (damaged, 1, "1 of 1 deliveries did not arrive"),
        ):
            assert Path(command[0]).name == "pyflyte" and Path(command[2]).is_absolute()
            again = pyflyte_here(*command[1:])
            assert again.code == code and answer in again.words() and "Traceback" not in again.text, again.text
        assert "model.safetensors" in hub.files["org/new"]


def test_a_night_ends_with_what_was_not_delivered(run: tuple[Path, FakeHub, Path], tmp_path: Path) -> None:
    """If it fails, a night that promoted a policy fails for want of a tracker, or does not say that one lacks it."""
    from workflows.retrain import publish_retrained

    (tmp_path / "file").write_text("")
    result = RunResult(promoted=False, reason="no", folder=FlyteDirectory(str(run[0])))
    gain = Estimate(mean=0.1, low=0.0, high=0.2)
    moment = datetime(2026, 11, 24, 2, tzinfo=UTC)
    ended = Night(due=moment, ended=moment, who="execution f0", promoted=False, champion=None, gain=gain, reason="none")
    night = RetrainResult(
        run=result, registry="s3://registry", champion=None, entry=None, folder="s3://runs/f0", night=ended
    )
    told = publish(trackers=[{"name": "tensorboard", "folder": str(tmp_path / "file/in")}])
    said = str(publish_retrained(result=night, publish=told)).splitlines()
    assert [line.split()[0] for line in said[-5:]] == ["policy", "champion", "registry", "not", "repeat"]
    assert str(publish_retrained(result=night, publish=publish())) == str(night)
    # A night that had its entry before has no run to publish.
    before = night.model_copy(update={"run": None})
    assert publish_retrained(result=before, publish=told) == before


@pytest.mark.parametrize(
    ("missing", "damaged"), [("run.json", None), ("report.html", None), (None, "{}"), (None, "no JSON")]
)
def test_a_folder_that_is_no_runs_is_refused_in_a_sentence(
    run: tuple[Path, FakeHub, Path], missing: str | None, damaged: str | None, pyflyte_here: Pyflyte, tmp_path: Path
) -> None:
    """If it fails, a wrong folder is answered by a screen of code."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in {"run.json", "report.html"} - {missing}:
        (folder / name).write_bytes((run[0] / name).read_bytes())
    if damaged is not None:
        (folder / "run.json").write_text(damaged)
    told = publish(trackers=[{"name": "tensorboard", "folder": str(tmp_path / "events")}])
    outcome = pyflyte_here(*PUBLISH, "--folder", folder, "--publish", told.model_dump_json())
    assert outcome.code == 1 and "is no run's folder, or is damaged" in outcome.words(), outcome.text
    assert len(outcome.text.splitlines()) < 10 and "Traceback" not in outcome.text


def test_what_a_library_logs_of_an_error_that_it_raises_is_not_shown_twice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If it fails, an outage of a store is a hundred lines of that library's code beside the sentence."""

    def send() -> str:
        try:
            raise ConnectionError("nobody answers")
        except ConnectionError:
            logging.getLogger("gcsfs").exception("out of retries")
            raise

    for seen, shown in ((True, False), (False, True)):
        with monkeypatch.context() as patch:
            patch.setattr(logging.getLogger(), "handlers", [])
            for module in (console, stage):
                patch.setattr(module, "seen_by_a_person", lambda seen=seen: seen)
            assert stage._deliver("it", send, None).problem == "ConnectionError: nobody answers"
        assert ("out of retries" in capsys.readouterr().err) is shown


def test_what_has_arrived_is_said_beside_what_has_not(caplog: pytest.LogCaptureFixture) -> None:
    """If it fails, `publish` by itself says of three deliveries only that the third did not arrive."""
    caplog.set_level(logging.INFO, stage.logger.name)
    deliveries = Delivery(to="a", address="https://there"), Delivery(to="b", problem="no", repeat="again b")
    with pytest.raises(PublishError, match="1 of 2 deliveries did not arrive: b: no"):
        stage.require_delivered.task_function(deliveries=[*deliveries])
    assert caplog.messages == [line for delivery in deliveries for line in delivery.lines()]


def test_what_a_pod_would_take_with_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, metrics are written to a disk that vanishes a second later."""
    from workflows.gdsd import prepare

    for name in ("HF_TOKEN", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)

    def unrolled(**told: object) -> None:
        taken = ("prompts", "policy", "hardware", "rollout", "evaluation", "judge")
        unroll(prepare, {name: getattr(CONFIG, name) for name in taken} | {"publish": publish(**told)})

    for tracker in (
        {"name": "tensorboard", "folder": "runs"},
        {"name": "tensorboard", "folder": "file:///runs"},
        {"name": "wandb", "project": "p", "mode": "offline", "folder": "/runs"},
        {"name": "mlflow", "uri": "sqlite:////runs.db"},
    ):
        with pytest.raises(FlyteUserRuntimeException, match="lost with the pod"):
            unrolled(trackers=[tracker])
    # Whether the secrets are there only the tasks find out that ask for them.
    reached = [{"name": "tensorboard", "folder": "s3://runs"}, {"name": "wandb", "project": "p"}]
    unrolled(trackers=reached, hub={"repo": "org/policy"})


@pytest.mark.parametrize("name", TASKS)
def test_task_compiles_to_what_is_documented(name: str) -> None:
    """If it fails, a pod has no key, or one that it has no need of, or what fails is not tried again."""
    template = get_serializable(OrderedDict(), SETTINGS, getattr(stage, name)).to_flyte_idl().template
    assert [(secret.group, secret.key) for secret in template.security_context.secrets] == [
        ("gdsd", key) for key in TASKS[name]
    ]
    assert template.container.image == "gdsd:cpu"
    assert {entry.name for entry in template.container.resources.requests} == set(CPU)
    assert template.metadata.retries.retries == 3 and template.metadata.interruptible
    assert not template.metadata.discoverable
    assert template.metadata.timeout.ToTimedelta() == timedelta(hours=6 if name == "push_policy" else 1)


@pytest.mark.parametrize(
    ("told", "launched"),
    [
        ({}, []),
        ({"licence": "mit"}, []),
        ({"hub": {"repo": "org/policy"}}, []),
        ({"hub": {"repo": "org/policy", "when": "always"}}, ["push_policy", "conclude_run"]),
        (
            {
                "trackers": [
                    {"name": "mlflow", "uri": "https://h", "token": True},
                    {"name": "mlflow", "uri": "https://h"},
                    {"name": "wandb", "project": "p"},
                    {"name": "wandb", "project": "p", "mode": "offline", "folder": "s3://runs"},
                ]
            },
            ["track_in_mlflow", "track_run", "track_in_wandb", "track_run", "conclude_run"],
        ),
    ],
)
def test_only_what_is_configured_is_launched(
    told: dict[str, object], launched: list[str], run: tuple[Path, FakeHub, Path]
) -> None:
    """If it fails, a cluster without secrets cannot train, since Flyte starts no pod whose secret is not there."""
    from workflows.publish import publish_run

    result = RunResult(promoted=False, reason="no", folder=FlyteDirectory(str(run[0])))
    found = launched_by(publish_run, {"run": result, "publish": publish(**told)})
    assert found == launched


def launched_by(task: PythonFunctionTask, inputs: dict[str, object]) -> list[str]:
    """The names of the tasks that a dynamic task launches, none where there is nothing left to do."""
    compiled = unroll(task, inputs)
    nodes = compiled.nodes if isinstance(compiled, DynamicJobSpec) else []
    return [node.metadata.name.rpartition(".")[2] for node in nodes if node.HasField("task_node")]


@pytest.mark.parametrize(
    ("done", "began", "told"),
    [
        (2, 5.0, True),
        (0, 5.0, False),
        (2, 25.0, False),  # both came from the cache, and were told of when they were computed
    ],
)
def test_a_leg_tells_trackers_of_the_rounds_before_it(done: int, began: float, told: bool, tmp_path: Path) -> None:
    """If it fails, trackers hear of a run when it is over, or a run that goes on starts a pod for each old leg."""
    config = CONFIG.model_copy(
        update={"rounds": 9, "publish": publish(trackers=[{"name": "tensorboard", "folder": "s3://runs"}])}
    )
    rounds = range(1, done + 1)
    progress = Progress(rewards=[reward() for _ in rounds], epochs=[epoch(number) for number in rounds])
    found = launched_by(run_leg, leg_inputs(config, tmp_path, progress, began=began))
    assert ("track_run" in found) is told


@pytest.mark.whole
def test_a_run_that_goes_on_is_one_run_for_trackers(tmp_path: Path) -> None:
    """If it fails, a killed run leaves no curve, or one that goes on, with more rounds than before, begins another."""
    events = tmp_path / "events"
    told = publish(trackers=[{"name": "tensorboard", "folder": str(events)}])
    config = CONFIG.model_copy(update={"rounds": 2, "validate_every": 1, "publish": told})

    def train(rounds: int, said: Callable[[str], bool] | None = None) -> set[str]:
        (tmp_path / "config.json").write_text(config.model_copy(update={"rounds": rounds}).model_dump_json())
        words = ("run", "workflows/gdsd.py", "train", "--config", tmp_path / "config.json")
        outcome = run_in_process(*words, home=tmp_path / "home", said=said)
        assert outcome.code == (0 if said is None else -signal.SIGKILL), outcome.text
        (folder,) = events.iterdir()
        return {found[1] for file in folder.iterdir() if (found := re.search(r"tfevents\.(.+)\.", file.name))}

    assert train(2, said=lambda line: " round 2 of 2: " in line) == {"000000", "000001"}
    assert train(3) == {"000000", "000001", "000002", "000003", "000003.end"}


def test_a_night_publishes_after_its_promotion_and_before_its_end() -> None:
    """If it fails, retrain pushes a policy that was overtaken, or says that a night has ended which goes on."""
    from workflows.retrain import retrain

    nodes = {node.flyte_entity.name.rpartition(".")[2]: node for node in retrain.nodes}
    for earlier, later in (("train_champion", "publish_retrained"), ("publish_retrained", "end_night")):
        before = {node.flyte_entity.name.rpartition(".")[2] for node in nodes[later].upstream_nodes}
        assert earlier in before


def test_a_record_from_before_there_was_publishing_is_read(run: tuple[Path, FakeHub, Path]) -> None:
    """If it fails, an older run cannot be published."""
    written = json.loads((run[0] / "run.json").read_text())
    del written["config"]["publish"], written["policy"]["parent"]
    assert RunRecord.model_validate_json(json.dumps(written)).config.publish == PublishConfig()
