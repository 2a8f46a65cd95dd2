"""Trackers, by the libraries themselves: what is written is read back with them, and a run is never there twice.

Nothing leaves the machine: Weights & Biases writes its offline files, MLflow its files, a server that refuses is local.
"""

import errno
import json
import os
import socket
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from tasks.gdsd import transient
from tasks.gdsd.config.publish import MlflowConfig, PublishConfig, TensorBoardConfig, Tracker, WandbConfig
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.errors import ConfigError, PublishError, UnreachableError
from tasks.gdsd.publish import trackers
from tasks.gdsd.publish.trackers import base
from tasks.gdsd.publish.trackers.base import TrackedRun
from tasks.gdsd.run.run_record import RunRecord
from tests.gdsd.report.records import record

METRICS = ("reward/mean", "loss/last", "time/rollout_s")


@pytest.fixture
def run() -> TrackedRun:
    """Two rounds, whose updates were done at 1006 and 1016 seconds."""
    return base.ended(record())


@pytest.fixture
def page(tmp_path: Path) -> Path:
    file = tmp_path / "report.html"
    file.write_text("<!doctype html><p>the report")
    return file


def going_on(rounds: int) -> TrackedRun:
    """What is told of the run, or of one with more rounds, while it goes on."""
    done = longer(rounds)
    return base.so_far(done.config, done.progress(), done.began_unix_seconds)


def longer(rounds: int) -> RunRecord:
    """The run as it would be with fewer or more rounds."""
    whole, last = record(), record().epochs[-1]
    epochs = [*whole.epochs]
    epochs += [
        last.model_copy(update={"round": number, "ended_unix_seconds": 996.0 + 10 * number})
        for number in range(3, rounds + 1)
    ]
    rewards = [whole.rewards[0], *(whole.rewards[1] for _ in epochs[1:])]
    config = whole.config.model_copy(update={"rounds": rounds})
    return record(config=config, epochs=epochs[:rounds], rewards=rewards[:rounds])


def told_as_it_goes_on(config: Tracker, page: Path) -> None:
    """Tells of a run round by round, with one left out; then of its end, of more rounds, and of the end of these."""
    for run, report in (
        (going_on(1), None),
        (going_on(1), None),
        (going_on(3), None),
        (base.ended(longer(3)), page),
        (going_on(4), None),
        (base.ended(longer(4)), page),
    ):
        trackers.track(config, run, report, None, {})


def expected(run: TrackedRun, metric: str) -> list[tuple[int, float]]:
    return [(row.round, pytest.approx(row.numbers[metric])) for row in run.rows]


def test_a_run_is_told_in_the_names_of_the_documentation(run: TrackedRun) -> None:
    """If it fails, a tracker shows other numbers than the report, or none, under names that nobody explains."""
    _, *rounds, trained = record().metrics()
    for row, told in zip(rounds, run.rows, strict=True):
        found = {"kind": "round", "round": told.round, "rollouts_after": told.round - 1, **told.numbers, **told.words}
        assert found == {name: value for name, value in row.items() if value is not None}
    assert run.results.items() <= trained.items()
    assert [row.unix_seconds for row in run.rows] == [1006.0, 1016.0]
    assert run.results["test/base_solved"] == 0.3 and run.results["test/gain_low"] == 0.1
    assert run.config["distill.learning_rate"] == 2e-3 and run.config["distill.objective.name"] == "gdsd"


def test_the_id_is_that_of_the_run(run: TrackedRun) -> None:
    """If it fails, a run that goes on or gets more rounds is there twice, or another run takes its place."""
    first, publish = record(), PublishConfig(trackers=[TensorBoardConfig(folder="elsewhere")])
    told_elsewhere, other = (first.config.model_copy(update=each) for each in ({"publish": publish}, {"seed": 7}))
    for same in (record(began_unix_seconds=5.0), record(config=told_elsewhere), longer(1), longer(7)):
        assert run.id == base.ended(same).id
    assert run.id == going_on(1).id
    later = [epoch.model_copy(update={"ended_unix_seconds": 2000.0}) for epoch in first.epochs]
    for changed in ({"config": other}, {"epochs": later}):
        assert run.id != base.ended(record(**changed)).id


def test_a_tracker_hears_nothing_of_other_trackers_and_of_folders(tmp_path: Path) -> None:
    """If it fails, a service elsewhere learns what a team's servers, buckets and folders are called."""
    (tmp_path / "mine.jsonl").write_text("{}")
    publish = {"trackers": [{"name": "mlflow", "uri": "https://private"}]}
    written = {"prompts": {"train_data": {"path": str(tmp_path / "mine.jsonl")}}, "publish": publish}
    told = base.ended(record(config=TrainConfig.model_validate_json(json.dumps(written)))).config
    assert told["prompts.train_data.path"] == "mine.jsonl" and len(str(told["prompts.train_data.sha256"])) == 64
    assert not [value for value in told.values() if "private" in str(value) or str(tmp_path) in str(value)]


def test_tensorboard_has_a_run_once(run: TrackedRun, page: Path, tmp_path: Path) -> None:
    """If it fails, TensorBoard shows nothing, or each point as often as the run was told of."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = TensorBoardConfig(folder=str(tmp_path / "runs"))
    said = {trackers.track(config, run, page, None, {}) for _ in range(2)}
    assert said == {f"tensorboard --logdir {tmp_path}/runs"}
    (folder,) = (tmp_path / "runs").iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    for metric in METRICS:
        found = events.Scalars(metric)
        assert [(event.step, event.value) for event in found] == expected(run, metric)
        assert [event.wall_time for event in found] == [1006.0, 1016.0]
    assert events.Scalars("test/gain")[0].value == pytest.approx(0.4)
    (settings,) = events.Tensors("config/text_summary")
    written = settings.tensor_proto.string_val[0].decode()
    assert json.loads(written) == json.loads(json.dumps(dict(run.config)))
    assert all(line.startswith("    ") for line in written.splitlines())
    assert [event.step for event in events.Tensors("rollout/engine/text_summary")] == [1, 2]
    assert (folder / "report.html").read_text() == page.read_text()
    trackers.track(TensorBoardConfig(folder="memory://runs/all"), run, page, None, {})
    stored = fsspec.filesystem("memory").find("/runs/all")
    names = [f"events.out.tfevents.{part}.{run.id}" for part in ("000000", "000001", "000002.end", "000002")]
    assert {name.rsplit("/", 1)[1] for name in stored} == {*names, "report.html"}


def test_tensorboard_hears_of_each_round_while_it_is_open(page: Path, tmp_path: Path) -> None:
    """If it fails, curves are seen only when it is too late, or break off where a run went on."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = TensorBoardConfig(folder=str(tmp_path / "runs"))
    trackers.track(config, going_on(1), None, None, {})
    (folder,) = (tmp_path / "runs").iterdir()
    opened = EventAccumulator(str(folder))
    opened.Reload()
    assert [event.step for event in opened.Scalars("reward/mean")] == [1]
    told_as_it_goes_on(config, page)
    assert [*(tmp_path / "runs").iterdir()] == [folder]
    opened.Reload()
    assert [event.step for event in opened.Scalars("reward/mean")] == [1, 2, 3, 4]
    assert [event.step for event in opened.Scalars("test/gain")] == [3, 4]


def test_a_round_of_which_the_disk_took_a_part_is_told_again(
    run: TrackedRun, page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, a disk that was full for a moment, or a kill, leaves a hole in a curve for ever."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = TensorBoardConfig(folder=str(tmp_path / "runs"))

    def full(system: LocalFileSystem, source: str, target: str) -> None:
        Path(target).write_bytes(Path(source).read_bytes()[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(LocalFileSystem, "put_file", full)
        with pytest.raises(PublishError, match="No space left"):  # for which no one waits
            trackers.track(config, run, page, None, {})
    trackers.track(config, run, page, None, {})
    (folder,) = (tmp_path / "runs").iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [event.step for event in events.Scalars("reward/mean")] == [1, 2]
    assert events.Tensors("config/text_summary") and not [*folder.glob(".*")]


def test_weights_and_biases_has_a_run_once(run: TrackedRun, page: Path, tmp_path: Path) -> None:
    """If it fails, `wandb sync` sends no run, one without its numbers, or several of them."""
    config = WandbConfig(project="p", entity="team", mode="offline", folder=str(tmp_path / "runs"))
    said = {trackers.track(config, run, page, None, {}) for _ in range(2)}
    folder = tmp_path / f"runs/offline-run-{run.id}"
    assert said == {f"wandb sync {folder}"}
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [folder.name]
    (file,) = folder.glob("*.wandb")
    rows, summary, told = [], {}, None
    for item in wandb_records(file):
        kind = item.WhichOneof("record_type")
        if kind == "history":
            rows.append({entry.key or entry.nested_key[0]: json.loads(entry.value_json) for entry in item.history.item})
        elif kind == "summary":
            summary |= {entry.key or entry.nested_key[0]: json.loads(entry.value_json) for entry in item.summary.update}
        elif kind == "run":
            told = item.run
    assert told is not None and (told.run_id, told.project, told.entity) == (run.id, "p", "team")
    written = {entry.key: json.loads(entry.value_json) for entry in told.config.update if entry.key in run.config}
    assert written == dict(run.config)
    for metric in METRICS:
        assert [(row["round"], row[metric]) for row in rows if metric in row] == expected(run, metric)
    assert [row["_timestamp"] for row in rows] == [1006, 1016]
    assert summary["test/gain"] == pytest.approx(0.4) and summary["verdict"] == run.verdict
    (media,) = folder.glob("files/media/html/*.html")
    assert media.read_text() == page.read_text()
    assert not told.host and socket.gethostname().encode() not in file.read_bytes()
    assert not list(folder.rglob("requirements.txt")) and not list(folder.rglob("*.log"))


def test_weights_and_biases_hears_of_each_round(page: Path, tmp_path: Path) -> None:
    """If it fails, curves are seen only when it is too late, or a run that went on is there twice."""
    config = WandbConfig(project="p", mode="offline", folder=str(tmp_path / "runs"))
    trackers.track(config, going_on(1), None, None, {})
    (folder,) = (tmp_path / "runs").iterdir()
    assert len([item for item in wandb_records(next(folder.glob("*.wandb"))) if item.HasField("history")]) == 1
    told_as_it_goes_on(config, page)
    assert [*(tmp_path / "runs").iterdir()] == [folder]
    (file,) = folder.glob("*.wandb")
    steps = [item.history.step.num for item in wandb_records(file) if item.WhichOneof("record_type") == "history"]
    assert steps == [1, 2, 3, 4]


def wandb_records(file: Path) -> Iterator[object]:
    """Reads a run's file as LevelDB's log format has it: blocks of 32 KiB with checksum, length, type and data."""
    from wandb.proto import wandb_internal_pb2

    data, place, whole = file.read_bytes(), 7, b""  # after W&B's own header
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield wandb_internal_pb2.Record.FromString(whole)
            whole = b""


@pytest.fixture
def mlflow_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> MlflowConfig:
    """MLflow's own files, which it still reads and writes where it is told to; a database takes seconds to make."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = f"file://{tmp_path}/store"  # which a configuration refuses, as MLflow does by default
    return MlflowConfig.model_construct(name="mlflow", uri=uri, experiment="puzzles", token=False)


def test_mlflow_has_a_run_once(
    run: TrackedRun, page: Path, mlflow_files: MlflowConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, MLflow shows no run, one without its numbers, or one for each time that it was told of."""
    from mlflow import MlflowClient

    client = MlflowClient(mlflow_files.uri)

    def killed(*arguments: object) -> None:
        assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true", "its makers hear of the run too"
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifact", killed)
        with pytest.raises(KeyboardInterrupt):
            trackers.track(mlflow_files, run, page, None, {})
    # What has its place elsewhere, and may be out of reach there, does not let a run look as if it went on.
    experiments = [client.get_experiment_by_name("puzzles").experiment_id]
    assert [found.info.status for found in client.search_runs(experiments)] == ["FINISHED"]
    said = {trackers.track(mlflow_files, run, page, None, {}) for _ in range(2)}
    (found,) = client.search_runs(experiments)
    assert said == {f"{mlflow_files.uri}/#/experiments/{found.info.experiment_id}/runs/{found.info.run_id}"}
    assert (found.info.status, found.info.run_name) == ("FINISHED", run.name)
    assert (found.info.start_time, found.info.end_time) == (1006_000, 1016_000)
    for metric in METRICS:
        history = client.get_metric_history(found.info.run_id, metric)
        assert [(point.step, point.value) for point in history] == expected(run, metric)
        assert [point.timestamp for point in history] == [1006_000, 1016_000]
    assert found.data.metrics["test/gain"] == pytest.approx(0.4)
    assert found.data.params == {name: str(value) for name, value in run.config.items()}
    assert found.data.tags["verdict"] == run.verdict and found.data.tags["rollout/engine"] == "exact"
    assert [item.path for item in client.list_artifacts(found.info.run_id)] == ["report.html"]


def test_mlflow_hears_of_each_round(page: Path, mlflow_files: MlflowConfig) -> None:
    """If it fails, curves are seen only when it is too late, or a run that went on is there twice."""
    from mlflow import MlflowClient

    client = MlflowClient(mlflow_files.uri)
    trackers.track(mlflow_files, going_on(1), None, None, {})
    experiments = [client.get_experiment_by_name("puzzles").experiment_id]
    (began,) = client.search_runs(experiments)
    assert began.info.status == "RUNNING" and "test/gain" not in began.data.metrics
    told_as_it_goes_on(mlflow_files, page)
    (found,) = client.search_runs(experiments)
    assert (found.info.run_id, found.info.status) == (began.info.run_id, "FINISHED")
    for metric, steps in (("reward/mean", [1, 2, 3, 4]), ("test/gain", [3, 4])):
        assert [point.step for point in client.get_metric_history(found.info.run_id, metric)] == steps
    # A parameter cannot change, so a tag says how many rounds there are now.
    assert (found.data.params["rounds"], found.data.tags["rounds"]) == ("1", "4")
    assert found.info.end_time == 1036_000


@pytest.mark.slow
def test_mlflow_takes_a_database(run: TrackedRun, page: Path, tmp_path: Path) -> None:
    """If it fails, MLflow cannot be used on one's own machine without a server."""
    from mlflow import MlflowClient

    config = MlflowConfig(uri=f"sqlite:///{tmp_path}/runs.db")
    said = {trackers.track(config, run, page, None, {}) for _ in range(2)}
    client = MlflowClient(config.uri)
    (found,) = client.search_runs([client.get_experiment_by_name("gdsd").experiment_id])
    assert len(said) == 1 and found.info.run_id in said.pop()
    assert (tmp_path / "mlflow-artifacts" / found.info.run_id / "artifacts/report.html").is_file()


@pytest.fixture
def refusing() -> Iterator[tuple[str, list[int], list[str | None]]]:
    """A server that answers with the status that it is given, and keeps the header that has the token."""
    status, keys = [401], []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            keys.append(self.headers.get("Authorization"))
            self.send_response(status[0])
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", status, keys
    server.shutdown()
    server.server_close()


def test_a_token_travels_in_a_header_and_refusals_say_what_to_do(
    run: TrackedRun, page: Path, refusing: tuple[str, list[int], list[str | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, a wrong token is tried again and again, a short outage loses the run, or a token is printed."""
    monkeypatch.delenv("MLFLOW_TRACKING_TOKEN", raising=False)
    url, status, keys = refusing
    config = MlflowConfig(uri=url, token=True)
    with pytest.raises(PublishError, match="set MLFLOW_TRACKING_TOKEN") as wrong:
        trackers.track(config, run, page, "very-secret", {})
    assert set(keys) == {"Bearer very-secret"} and "MLFLOW_TRACKING_TOKEN" not in os.environ
    assert "very-secret" not in str(wrong.value) and not transient.may_pass(wrong.value)
    status[0] = 503
    with pytest.raises(UnreachableError, match="does not answer: too many 503") as busy:
        trackers.track(config, run, page, "very-secret", {})
    assert transient.may_pass(busy.value)


def test_weights_and_biases_that_cannot_be_reached_may_be_tried_again(
    run: TrackedRun, page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, a run waits for an unreachable server for ever, or what was away once is not told any more."""
    from tasks.gdsd.publish.trackers import wandb

    monkeypatch.setattr(wandb, "SECONDS", 1.0)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    for _ in range(2):
        with pytest.raises(UnreachableError, match="does not take the run") as found:
            trackers.track(WandbConfig(project="p"), run, page, "0" * 40, {})
        assert transient.may_pass(found.value)
    trackers.track(WandbConfig(project="p", mode="offline", folder=str(tmp_path / "runs")), run, page, None, {})
    assert list(tmp_path.glob(f"runs/offline-run-{run.id}/*.wandb"))


def test_a_package_that_is_missing_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a run ends in an ImportError after hours."""
    configs = [TensorBoardConfig(folder="runs"), WandbConfig(project="p"), MlflowConfig(uri="sqlite:///runs.db")]
    trackers.require(configs)
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    for config, packages in zip(configs, ("tensorboard", "wandb", "mlflow-skinny sqlalchemy alembic"), strict=True):
        with pytest.raises(ConfigError, match=f"pip install -c constraints.txt {packages}`"):
            trackers.require([config])
