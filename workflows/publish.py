"""Publishes a finished run to trackers and the hub: as the end of `train` and `retrain`, or later by itself.

    pyflyte run workflows/publish.py publish --folder FOLDER --publish '{"hub": {"repo": "org/name"}}'

| task                                             | what it does     | secret                  |
|--------------------------------------------------|------------------|-------------------------|
| `track_run`, `track_in_wandb`, `track_in_mlflow` | tells a tracker  | none, or the tracker's  |
| `push_policy`                                    | commits to a hub | `hf_token`              |

Only what is configured is added, so a cluster needs no secret that nothing asks for. None is cached. Each task finds
out what was published before.
"""

import logging
import os
from pathlib import Path

from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile

from images import IMAGES
from tasks.flyte.sources import reach, ship
from tasks.flyte.stage import unroll
from tasks.gdsd.config.publish import PublishConfig
from tasks.gdsd.errors import PublishError
from tasks.gdsd.run.run_record import RunRecord
from tasks.publish import MLFLOW, SECRETS, WANDB, push_policy, secret_of, track_in_mlflow, track_in_wandb, track_run

ship(reach(__name__))

logger = logging.getLogger("tasks.publish")
TRACK = {None: track_run, WANDB: track_in_wandb, MLFLOW: track_in_mlflow}


@unroll(environment={**IMAGES, **SECRETS})
def publish(folder: FlyteDirectory, publish: PublishConfig) -> list[str]:
    """Tells the configured trackers of a run, and pushes its policy where gate or configuration say so.

    Args:
        folder: of the run, as it is named at its end
        publish: trackers and hub, as in a run's configuration
    """
    told: list[str] = []
    if not publish.trackers and publish.hub is None:
        return told
    address = str(folder.remote_source or folder.path)
    run, report = (FlyteFile.from_source(f"{address}/{name}") for name in ("run.json", "report.html"))
    record = RunRecord.model_validate_json(Path(os.fspath(run)).read_bytes())
    failed: list[PublishError] = []
    for index, tracker in enumerate(publish.trackers):
        track = TRACK[secret_of(tracker)]
        try:
            told.append(track(run=run, report=report, folder=address, publish=publish, index=index))
        except PublishError as error:  # in a local run, where the others come next
            failed.append(error)
    if publish.hub is not None:
        if record.decision.promoted or publish.hub.when == "always":
            try:
                told.append(push_policy(run=folder, folder=address, publish=publish))
            except PublishError as error:
                failed.append(error)
        else:
            logger.info("hub: nothing is pushed, since the gate says no")
    if failed:
        raise PublishError("\n".join(map(str, failed)))
    return told
