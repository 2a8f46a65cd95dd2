"""Stage `publish`: tells the configured trackers of a run, and pushes its policy to the configured hub.

What keeps a delivery from arriving is a result of its task, and no error: the run is none the worse for it. So is a
secret that a cluster has not got, unless its manager of secrets starts no pod without it.

A key is never part of a configuration. On a cluster it is a secret of the group that GDSD_SECRETS names when the tasks
are registered (by default `gdsd`). A task asks for the secret that it needs and for no other. A local run takes the key
from the environment, or from the login of the library.
"""

import json
import logging
import netrc
import os
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from flytekit import Secret, current_context
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile
from pydantic import BaseModel

from tasks.flyte import commands
from tasks.flyte.console import others_silent, seen_by_a_person, speak
from tasks.flyte.local import in_pod
from tasks.flyte.stage import cpu_task
from tasks.flyte.store_options import storage_options
from tasks.gdsd import files, transient
from tasks.gdsd.config.publish import MlflowConfig, PublishConfig, Tracker, WandbConfig
from tasks.gdsd.errors import ConfigError, GdsdError, PublishError
from tasks.gdsd.records import Delivery
from tasks.report import RunResult

logger = logging.getLogger(__name__)

GROUP = os.environ.get("GDSD_SECRETS", "gdsd")
# The dynamic task that launches these names their secrets in a pod, without the environment of registration.
SECRETS = {"GDSD_SECRETS": GROUP}
HUB, WANDB, MLFLOW = "hf_token", "wandb_api_key", "mlflow_tracking_token"  # on one's own machine in capitals
WAITS = (5.0, 20.0)  # seconds before another attempt at what may pass
LONGEST = 400  # letters of what an error says
KEY = re.compile("[!-~]+")  # what a header of a request can carry


class Published(BaseModel):
    """What became of the deliveries of a run that was published by itself; printed at its end."""

    deliveries: list[Delivery]

    def __str__(self) -> str:
        return "\n".join(line for delivery in self.deliveries for line in delivery.lines()) or "nothing to publish"


def require_publishing(publish: PublishConfig) -> None:
    """Refuses what could only fail at the end of a run, where this runs in the image or on the machine of the end.

    Raises:
        ConfigError: a package or key is missing, or what is written would be lost with the pod.
    """
    from tasks.gdsd.publish import trackers

    trackers.require(publish.trackers)
    if in_pod():
        require_shared_places(publish)
    for tracker in publish.trackers:
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


def require_shared_places(publish: PublishConfig) -> None:
    """Refuses trackers that write to a place that is lost with the pod.

    Raises:
        ConfigError: there is one.
    """
    for tracker in publish.trackers:
        place = tracker.uri if isinstance(tracker, MlflowConfig) else tracker.folder
        if place is not None and not files.is_shared(place):
            raise ConfigError(
                f"publish.trackers: {tracker.name} would write to {place!r}, which is lost with the pod; name a place "
                "that outlives it, such as s3://bucket/folder"
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
        PublishError: this is a pod, and the cluster has no such secret; or what is there is no key.
    """
    key = _found(name)
    if key is not None and not KEY.fullmatch(key):  # a library would say so with the key in its words
        raise PublishError(
            f"{name if in_pod() else name.upper()} has a blank, a line's end or a letter that no key has; set it anew"
        )
    return key


def _found(name: str) -> str | None:
    if in_pod():
        try:
            return str(current_context().secrets.get(group=GROUP, key=name))
        except ValueError as error:
            raise PublishError(f"the cluster has no secret {name!r} in the group {GROUP!r}; make it") from error
    if name == HUB:
        from huggingface_hub import get_token

        return get_token()
    return os.environ.get(name.upper(), "").strip() or None


@cpu_task(retries=3, cached=False)
def track_run(
    run: FlyteFile, report: FlyteFile | None, folder: str | None, publish: PublishConfig, index: int
) -> Delivery:
    """Tells a tracker that needs no key of a run; returns what became of it.

    Args:
        run: a `TrackedRun` as JSON.
        report: its page, once it has ended.
        folder: of a run that has ended, for who has to try again. One that goes on is told of again anyway.
        index: which of the trackers.
    """
    return _track(run, report, folder, publish, index)


@cpu_task(retries=3, cached=False, secret=Secret(group=GROUP, key=WANDB))
def track_in_wandb(
    run: FlyteFile, report: FlyteFile | None, folder: str | None, publish: PublishConfig, index: int
) -> Delivery:
    """Tells Weights & Biases of a run, as `track_run` does."""
    return _track(run, report, folder, publish, index)


@cpu_task(retries=3, cached=False, secret=Secret(group=GROUP, key=MLFLOW))
def track_in_mlflow(
    run: FlyteFile, report: FlyteFile | None, folder: str | None, publish: PublishConfig, index: int
) -> Delivery:
    """Tells an MLflow server that asks for a token of a run, as `track_run` does."""
    return _track(run, report, folder, publish, index)


def _track(
    run: FlyteFile, report: FlyteFile | None, folder: str | None, publish: PublishConfig, index: int
) -> Delivery:
    from tasks.gdsd.publish import trackers
    from tasks.gdsd.publish.trackers.base import TrackedRun

    config = publish.trackers[index]
    name = secret_of(config)
    if isinstance(config, MlflowConfig) and config.uri.startswith("http") and not in_pod():
        name = MLFLOW  # which its library would take from the environment anyway

    def tell() -> str:
        from tasks.gdsd.report import elsewhere

        place = config.folder if not isinstance(config, MlflowConfig) else None
        options = storage_options(place) if place is not None else {}
        told = TrackedRun.model_validate_json(Path(os.fspath(run)).read_bytes())
        key = None if name is None else _key(name)
        if report is None:
            return trackers.track(config, told, None, key, options)
        with tempfile.TemporaryDirectory(prefix="page-") as place:
            page = Path(place, "report.html")
            page.write_text(elsewhere(Path(os.fspath(report)).read_text("utf-8")), "utf-8")
            return trackers.track(config, told, page, key, options)

    repeat = None if folder is None else _command(folder, PublishConfig(trackers=[config]))
    return _deliver(trackers.told(config), tell, repeat)


@cpu_task(hours=6, retries=3, cached=False, secret=Secret(group=GROUP, key=HUB))
def push_policy(run: FlyteDirectory, folder: str, publish: PublishConfig) -> Delivery:
    """Pushes a run's policy to the hub; returns what became of it, with the commit's address.

    Args:
        run: its folder.
        folder: the address of that, for who has to try again.
    """
    from tasks.gdsd.publish import hub

    config = publish.hub
    assert config is not None  # or this task would not have been added

    def push() -> str:
        token = _key(HUB)
        if token is None:
            raise PublishError("the hub needs a token, and there is none; set HF_TOKEN to one that may write there")
        return hub.push(Path(os.fspath(run)), config, token)

    return _deliver(f"the hub as {config.repo}", push, _command(folder, PublishConfig(hub=config)))


@cpu_task(hours=0.5, cached=False)
def conclude_run(run: RunResult, deliveries: list[Delivery]) -> RunResult:
    """Returns the result with what became of its deliveries."""
    return run.model_copy(update={"deliveries": deliveries})


@cpu_task(hours=0.5, cached=False)
def require_delivered(deliveries: list[Delivery]) -> Published:
    """Returns the deliveries, where nothing else was asked for than these.

    Raises:
        PublishError: one of them has not arrived.
    """
    failed = [delivery for delivery in deliveries if delivery.problem is not None]
    if failed:
        speak()
        for delivery in deliveries:  # what has arrived too, since an error has no room for it
            for line in delivery.lines():
                logger.info(line)
        said = "; ".join(f"{delivery.to}: {delivery.problem}" for delivery in failed)
        raise PublishError(f"{len(failed)} of {len(deliveries)} deliveries did not arrive: {said}")
    return Published(deliveries=deliveries)


def _deliver(to: str, send: Callable[[], str], repeat: str | None) -> Delivery:
    """Sends something out, and turns whatever keeps it from arriving into a sentence.

    Nothing that goes on out there makes a run fail. What may pass is tried again, at the end of a run, with a line for
    each attempt.

    Args:
        repeat: the command that tries again; None where the run goes on, and is told of again anyway.
    """
    for wait in (*WAITS, None) if repeat is not None else (None,):
        try:
            with others_silent():
                return Delivery(to=to, address=send())
        except Exception as error:  # of any library: each raises what it likes
            said = _sentence(error)
            if wait is None or not transient.may_pass(error):
                # Who sees no more than a line of a run's own errors has the traceback by -v, and a cluster in its log.
                logger.warning("%s: not sent: %s", to, said, exc_info=not seen_by_a_person())
                return Delivery(to=to, problem=said, repeat=repeat)
            logger.warning("%s is not to be reached; another attempt in %g s", to, wait)
            time.sleep(wait)
    raise AssertionError("the last attempt returns")


def _sentence(error: Exception) -> str:
    """Returns an error on one line; of a library's own its name, which says the most, and the first line."""
    said = " ".join(str(error).split())
    if not isinstance(error, GdsdError):
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        said = f"{type(error).__name__}: {first}" if first else type(error).__name__
    return said if len(said) <= LONGEST else f"{said[:LONGEST]}..."


def _command(folder: str, publish: PublishConfig) -> str:
    """Returns the command that publishes a run again."""
    # The name of a kind is its default, without which it would be none.
    what = json.dumps(publish.model_dump(mode="json", exclude_none=True))
    return commands.run("workflows/publish.py", "publish", "--folder", files.absolute(folder), "--publish", what)
