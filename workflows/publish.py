"""Publishes a run to trackers and the hub: as the end of `train` and `retrain`, or later by itself.

    pyflyte run workflows/publish.py publish --folder FOLDER --publish '{"hub": {"repo": "org/name"}}'

| task                                             | what it does     | secret                  |
|--------------------------------------------------|------------------|-------------------------|
| `track_run`, `track_in_wandb`, `track_in_mlflow` | tells a tracker  | none, or the tracker's  |
| `push_policy`                                    | commits to a hub | `hf_token`              |
| `conclude_run`, `require_delivered`              | what became of it | none                   |

Only what is configured is added, so a cluster needs no secret that nothing asks for. None is cached. Each task finds
out what was published before. Trackers are told of a run while it goes on too, by each leg of those before it.
"""

import logging
from pathlib import Path

from flytekit import FlyteContextManager
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile

from images import IMAGES
from tasks.flyte.local import in_pod
from tasks.flyte.pace import Pace
from tasks.flyte.sources import reach, ship
from tasks.flyte.stage import unroll
from tasks.gdsd import transient
from tasks.gdsd.config.publish import PublishConfig
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.errors import PublishError, UnreachableError
from tasks.gdsd.publish.trackers import base
from tasks.gdsd.publish.trackers.base import TrackedRun
from tasks.gdsd.records import Delivery, Progress
from tasks.gdsd.run.run_record import RunRecord
from tasks.publish import (
    MLFLOW,
    SECRETS,
    WANDB,
    Published,
    conclude_run,
    push_policy,
    require_delivered,
    secret_of,
    track_in_mlflow,
    track_in_wandb,
    track_run,
)
from tasks.report import RunResult, read_record

ship(reach(__name__))

logger = logging.getLogger("tasks.publish")
LAUNCHING = {**IMAGES, **SECRETS}  # what a dynamic task must know that launches these
SHARE = 0.05  # of a local run's time, which telling trackers of it may take while it goes on
TRACK = {None: track_run, WANDB: track_in_wandb, MLFLOW: track_in_mlflow}

_pace = Pace(SHARE)


@unroll(environment=LAUNCHING)
def publish(folder: FlyteDirectory, publish: PublishConfig) -> Published:
    """Tells the configured trackers of a run, and pushes its policy where gate or configuration say so.

    Args:
        folder: of the run, as it is named at its end
        publish: trackers and hub, as in a run's configuration
    """
    return require_delivered(deliveries=deliver(folder, publish))


@unroll(environment=LAUNCHING)
def publish_run(run: RunResult, publish: PublishConfig) -> RunResult:
    """Publishes a run as its end, and adds to its result what became of that."""
    deliveries = deliver(run.folder, publish)
    return conclude_run(run=run, deliveries=deliveries) if deliveries else run


def deliver(folder: FlyteDirectory, publish: PublishConfig) -> list[Delivery]:
    """Adds to a dynamic task what publishes a run that has ended: each delivery by itself, whatever another does.

    Only where a manager of secrets starts no pod without a delivery's secret, the run ends there.
    """
    told: list[Delivery] = []
    if not publish.trackers and publish.hub is None:
        return told
    address = str(folder.remote_source or folder.path)
    record, report = _read(folder, address)
    told += _track(base.ended(record), report, address, publish)
    if publish.hub is not None:
        if record.decision.promoted or publish.hub.when == "always":
            told.append(push_policy(run=folder, folder=address, publish=publish))
        else:
            logger.info("hub: nothing is pushed, since the gate says no")
    return told


def _read(folder: FlyteDirectory, address: str) -> tuple[RunRecord, FlyteFile]:
    """Returns the record and the page of a run.

    Raises:
        PublishError: what is there is no run's folder.
        UnreachableError: its store does not answer.
    """
    try:
        return read_record(folder), FlyteFile.from_source(f"{address}/report.html")
    except Exception as error:  # of any store
        if transient.may_pass(error):
            raise UnreachableError(f"{address} cannot be read: {error}") from error
        raise PublishError(
            f"{address} is no run's folder, or is damaged: its run.json and report.html cannot be read; name the "
            "folder that a run says at its end"
        ) from error


def tell_of(config: TrainConfig, rounds: Progress, began: float) -> None:
    """Adds to a leg what tells the trackers of the rounds before it, beside its own.

    Rounds from the cache were told of when they were computed. If not, the next rounds or the run's end make up for it.
    On this machine, where the run waits, telling takes no more than `SHARE` of its time.

    Args:
        began: when the run, or what goes on with it, began its rounds, in seconds since 1970.
    """
    if not config.publish.trackers or not rounds.epochs or rounds.epochs[-1].ended_unix_seconds < began:
        return
    if in_pod() or _pace.is_time():
        with _pace.timed():
            _track(base.so_far(config, rounds, began), None, None, config.publish)


def _track(run: TrackedRun, report: FlyteFile | None, folder: str | None, publish: PublishConfig) -> list[Delivery]:
    if not publish.trackers:
        return []
    # As a file, since a long run as a value would be a part of what the cluster keeps of the workflow itself.
    place = Path(FlyteContextManager.current_context().file_access.get_random_local_path())
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(run.model_dump_json(), "utf-8")
    return [
        TRACK[secret_of(tracker)](run=FlyteFile(str(place)), report=report, folder=folder, publish=publish, index=index)
        for index, tracker in enumerate(publish.trackers)
    ]
