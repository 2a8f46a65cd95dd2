"""Stage `publish`: tells the configured trackers of a finished run, and pushes its policy to the configured hub.

A key is never part of a configuration. On a cluster it is a secret of the group that GDSD_SECRETS names when the tasks
are registered (by default `gdsd`). A task asks for the secret that it needs and for no other. A local run takes the key
from the environment, or from the login of the library.
"""

import json
import netrc
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from flytekit import Secret, current_context
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile

from tasks.flyte.local import in_pod
from tasks.flyte.stage import cpu_task
from tasks.flyte.store_options import storage_options
from tasks.gdsd.config.publish import MlflowConfig, PublishConfig, Tracker, WandbConfig
from tasks.gdsd.errors import ConfigError, PublishError
from tasks.gdsd.run.run_record import RunRecord

GROUP = os.environ.get("GDSD_SECRETS", "gdsd")
# The dynamic task that launches these names their secrets in a pod, without the environment of registration.
SECRETS = {"GDSD_SECRETS": GROUP}
HUB, WANDB, MLFLOW = "hf_token", "wandb_api_key", "mlflow_tracking_token"  # on one's own machine in capitals


def require_publishing(publish: PublishConfig) -> None:
    """Refuses what could only fail at the end of a run, where this runs in the image or on the machine of the end.

    Raises:
        ConfigError: a package or key is missing, or what is written would be lost with the pod.
    """
    from tasks.gdsd.publish import trackers

    trackers.require(publish.trackers)
    for tracker in publish.trackers:
        place = tracker.uri if isinstance(tracker, MlflowConfig) else tracker.folder
        if in_pod() and place is not None and ("://" not in place or place.startswith(("file:", "sqlite:"))):
            raise ConfigError(
                f"publish.trackers: {tracker.name} would write to {place!r}, which is lost with the pod; name a place "
                "that outlives it, such as s3://bucket/folder"
            )
        if not in_pod() and (name := secret_of(tracker)) is not None and not _logged_in(name):
            raise ConfigError(
                f"publish.trackers: {tracker.name} needs a key, and {name.upper()} is not set; set it, or leave the "
                "tracker out"
            )
    if publish.hub is not None and not in_pod() and not _logged_in(HUB):
        raise ConfigError(
            f"publish.hub.repo {publish.hub.repo!r} needs a token, and there is none; set HF_TOKEN to one that may "
            "write there, or leave publish.hub out"
        )


def secret_of(tracker: Tracker) -> str | None:
    """Returns the name of the secret that a tracker needs, None where it needs none."""
    match tracker:
        case WandbConfig(mode="online"):
            return WANDB
        case MlflowConfig(token=True):
            return MLFLOW
        case _:
            return None


def _logged_in(name: str) -> bool:
    if name == WANDB:
        if os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
            return True
        host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
        try:
            if netrc.netrc().authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            pass
    return _key(name) is not None


def _key(name: str) -> str | None:
    """Returns a key; None where the library may have one of its own.

    Raises:
        PublishError: this is a pod, and the cluster has no such secret.
    """
    if in_pod():
        try:
            return str(current_context().secrets.get(group=GROUP, key=name))
        except ValueError as error:
            raise PublishError(f"the cluster has no secret {name!r} in the group {GROUP!r}; make it") from error
    if name == HUB:
        from huggingface_hub import get_token

        return get_token()
    return os.environ.get(name.upper()) or None


@cpu_task(retries=3, cached=False)
def track_run(run: FlyteFile, report: FlyteFile, folder: str, publish: PublishConfig, index: int) -> str:
    """Tells a tracker that needs no key of a run; returns where it is to be found.

    Args:
        run: its run.json.
        folder: of the run, for who has to try again.
        index: which of the trackers.

    Raises:
        PublishError: the tracker refuses.
    """
    return _track(run, report, folder, publish, index)


@cpu_task(retries=3, cached=False, secret=Secret(group=GROUP, key=WANDB))
def track_in_wandb(run: FlyteFile, report: FlyteFile, folder: str, publish: PublishConfig, index: int) -> str:
    """Tells Weights & Biases of a run, as `track_run` does.

    Raises:
        PublishError: it refuses.
    """
    return _track(run, report, folder, publish, index)


@cpu_task(retries=3, cached=False, secret=Secret(group=GROUP, key=MLFLOW))
def track_in_mlflow(run: FlyteFile, report: FlyteFile, folder: str, publish: PublishConfig, index: int) -> str:
    """Tells an MLflow server that asks for a token of a run, as `track_run` does.

    Raises:
        PublishError: it refuses.
    """
    return _track(run, report, folder, publish, index)


def _track(run: FlyteFile, report: FlyteFile, folder: str, publish: PublishConfig, index: int) -> str:
    from tasks.gdsd.publish import trackers
    from tasks.gdsd.publish.trackers import base

    config = publish.trackers[index]
    place = config.folder if not isinstance(config, MlflowConfig) else None
    options = storage_options(place) if place is not None else {}
    record = RunRecord.model_validate_json(Path(os.fspath(run)).read_bytes())
    name = secret_of(config)
    with _kept(folder, PublishConfig(trackers=[config])):
        key = None if name is None else _key(name)
        return trackers.track(config, base.of(record, Path(os.fspath(report))), key, options)


@cpu_task(hours=6, retries=3, cached=False, secret=Secret(group=GROUP, key=HUB))
def push_policy(run: FlyteDirectory, folder: str, publish: PublishConfig) -> str:
    """Pushes a run's policy to the hub; returns the commit's address.

    Args:
        run: its folder.
        folder: the address of that, for who has to try again.

    Raises:
        PublishError: the hub refuses.
    """
    from tasks.gdsd.publish import hub

    assert publish.hub is not None  # or this task would not have been added
    with _kept(folder, PublishConfig(hub=publish.hub)):
        token = _key(HUB)
        if token is None:
            raise PublishError("the hub needs a token, and there is none; set HF_TOKEN to one that may write there")
        return hub.push(Path(os.fspath(run)), publish.hub, token)


@contextmanager
def _kept(folder: str, publish: PublishConfig) -> Iterator[None]:
    """Says of a failure that the run is not lost, and how to try again."""
    try:
        yield
    except PublishError as error:
        running = current_context().execution_id
        remote = f" --remote -p {running.project} -d {running.domain}" if in_pod() and running is not None else ""
        # The name of a kind is its default, without which it would be none.
        what = publish.model_dump(mode="json", exclude_none=True)
        command = ["publish", "--folder", folder, "--publish", json.dumps(what)]
        raise type(error)(
            f"{error}\nThe run is kept in {folder}. To publish it again:\n"
            f"pyflyte run{remote} workflows/publish.py {shlex.join(command)}"
        ) from error.__cause__
