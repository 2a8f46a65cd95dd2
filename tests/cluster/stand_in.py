"""A stand-in Flyte backend with its data on an S3 server, and executions on it as a person starts them.

What takes long to import is imported where it is used, since other tests are collected beside these.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import msgpack

from tests.cluster.backend.server import Backend
from tests.cluster.backend.state import Attempt, Execution
from tests.workflows.conftest import without_times

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
BUCKET = "cluster"
# As small as an experiment can be: what takes time are the processes of its tasks.
SMALL = {
    "prompts": {"train_size": 8, "validation_size": 4, "test_size": 24},
    "policy": {
        "tiny": {"hidden_size": 16, "intermediate_size": 16, "layers": 1, "heads": 2},
        "warm_start": {"steps": 40, "batch_size": 32, "learning_rate": 0.02},
    },
    "rollout": {"prompts_per_round": 4, "group_size": 8, "sampler": {"steps_per_block": 4}},
    "evaluation": {"sampler": {"steps_per_block": 4}},
}
TRAIN = SMALL | {
    "name": "cluster",
    "rounds": 2,
    "validate_every": 2,
    # A state after each update, so that a process can be killed between two of them.
    "distill": {"inner_steps": 40, "warmup_steps": 0, "compute": {"save_minutes": 0}},
    "judge": {"resamples": 100},
}
REFUSAL = b"<Error><Code>ServiceUnavailable</Code><Message>Please reduce your request rate.</Message></Error>"


class Weather:
    """moto's S3, which refuses what a test wants it to refuse."""

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app

        self.app = DomainDispatcherApplication(create_backend_app)
        self.refuses: Callable[[str], bool] = lambda path: False

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> object:
        if self.refuses(environ["PATH_INFO"]):
            start_response("503 Service Unavailable", [("Content-Type", "application/xml")])
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [REFUSAL]
        return self.app(environ, start_response)


def object_store(weather: Weather) -> Any:
    """Returns a server of objects that is not started yet."""
    from moto.server import MotoRequestHandler
    from werkzeug.serving import make_server

    return make_server("127.0.0.1", 0, weather, threaded=True, request_handler=MotoRequestHandler)


@dataclass
class Cluster:
    """The backend, and what was started on it."""

    backend: Backend
    files: Any  # s3fs.S3FileSystem
    weather: Weather
    access: dict[str, str]  # of its tasks, and of commands that read its data
    told: list[str] = field(default_factory=list)  # lines about executions that have ended, for the end of the run

    def start(self, name: str, *words: str | Path) -> "Started":
        """Begins `pyflyte run --remote` of an execution of this name."""
        command = [str(BIN / "pyflyte"), "-c", str(self.backend.config), "run", "--remote", "--name", name]
        return Started(self, name, begin([*command, *map(str, words)], self.access))

    def call(self, *words: str, **variables: str) -> str:
        """Runs a command of the environment in the project's folder and returns what it says."""
        return finish(begin([str(BIN / words[0]), *words[1:]], self.access | variables))

    def ended(self, name: str) -> Execution:
        """Waits for an execution and returns it, whatever became of it."""
        execution = self.backend.executions[name]
        assert execution.ended.wait(1800), f"{name} is still {execution.phase} after half an hour"
        ran = [attempt for attempt in execution.attempts if not attempt.cached]
        for attempt in ran:
            # Elsewhere they would all unpack their sources into one folder of this machine, one while another reads it.
            place = attempt.option("--dest-dir")
            assert place == ".", f"{attempt.task} unpacks its sources into {place} instead of a folder of its own"
        work = sum(attempt.seconds for attempt in ran)
        self.told.append(
            f"{name}: {execution.phase}, {execution.seconds:.0f} s, {len(ran)} task processes of "
            f"{work / max(1, len(ran)):.1f} s, {len(execution.attempts) - len(ran)} from the cache"
        )
        return execution

    def folder(self, execution: Execution) -> str:
        """The address of the folder that an execution has made, or the run in it."""
        made = output(execution)
        return made.get("run", made)["folder"]["path"]

    def record(self, execution: Execution, file: str) -> Any:
        """What an execution has written into its folder."""
        return json.loads(self.files.cat_file(f"{self.folder(execution)}/{file}"))


@dataclass
class Started:
    """An execution that is on its way."""

    cluster: Cluster
    name: str
    process: subprocess.Popen[str]

    def ended(self) -> Execution:
        """Waits for the execution and returns it, whatever became of it."""
        finish(self.process)
        return self.cluster.ended(self.name)

    def succeeded(self) -> Execution:
        """Waits for the execution and returns it."""
        execution = self.ended()
        assert execution.phase == "SUCCEEDED", f"{self.name}: {execution.error}\n{logs(execution)}"
        return execution

    def watch(self) -> Execution:
        """Waits until the execution is there."""
        return until(lambda: self.cluster.backend.executions.get(self.name), f"{self.name} to be submitted")


def begin(command: list[str], variables: dict[str, str]) -> subprocess.Popen[str]:
    """Starts a command in the project's folder; of Flyte's and our variables it has only those that are given."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("FLYTE", "GDSD"))}
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=kept | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def begin_here(home: Path, *words: str | Path) -> subprocess.Popen[str]:
    """Starts `pyflyte run` on this machine, with a cache and data of its own."""
    home.mkdir(exist_ok=True)
    variables = {"HOME": str(home), "TMPDIR": str(home), "OMP_NUM_THREADS": "1"}
    return begin([str(BIN / "pyflyte"), "run", *map(str, words)], variables)


def record_here(home: Path, file: str) -> Any:
    """What a run on this machine has written into its folder."""
    (record,) = home.glob(f".flyte/gdsd/*/{file}")
    return json.loads(record.read_text())


def finish(process: subprocess.Popen[str]) -> str:
    """Waits for a command and returns what it has said."""
    said, _ = process.communicate(timeout=1800)
    assert process.returncode == 0, f"{process.args} failed:\n{said}"
    return said


def until(what: Callable[[], Any], name: str, seconds: float = 1800) -> Any:
    """Waits for something to be true and returns it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.01)
    raise AssertionError(f"waited {seconds:.0f} s for {name}")


def output(execution: Execution) -> Any:
    """The output of an execution, which is a pydantic model, as plain data."""
    return msgpack.loads(execution.outputs.literals["o0"].scalar.binary.value)


def reached(report: Any) -> Any:
    """What a policy reaches by an evaluation's report, whenever and of whatever run it was evaluated."""
    return {key: value for key, value in without_times(report).items() if key not in ("round", "protocol")}


def tries(execution: Execution, task: str) -> dict[str, list[Attempt]]:
    """The attempts at each node of a task that were not served from the cache."""
    found: dict[str, list[Attempt]] = {}
    for attempt in execution.attempts:
        if task in attempt.task and not attempt.cached:
            found.setdefault(attempt.node, []).append(attempt)
    return found


def logs(execution: Execution) -> str:
    """The ends of the logs of attempts that failed."""
    failed = [attempt for attempt in execution.attempts if attempt.outcome not in ("SUCCEEDED", "CACHED")]
    return "\n".join(
        f"{attempt.task} try {attempt.number}:\n{attempt.log.read_text()[-3000:]}" for attempt in failed if attempt.log
    )


def addresses(value: Any) -> Iterator[str]:
    """Where the files and folders lie that a map of literals points to."""
    for literal in value.literals.values():
        yield from _addresses(literal)


def _addresses(literal: Any) -> Iterator[str]:
    kind = literal.WhichOneof("value")
    if kind == "collection":
        for item in literal.collection.literals:
            yield from _addresses(item)
    elif kind == "map":
        yield from addresses(literal.map)
    elif kind == "scalar" and literal.scalar.HasField("blob"):
        yield literal.scalar.blob.uri
    elif kind == "scalar" and literal.scalar.HasField("binary"):
        yield from _paths(msgpack.loads(literal.scalar.binary.value))


def _paths(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("path"), str) and set(value) <= {"path", "metadata"}:  # and no domain of one's own
            yield value["path"]
        for item in value.values():
            yield from _paths(item)
    elif isinstance(value, list):
        for item in value:
            yield from _paths(item)
