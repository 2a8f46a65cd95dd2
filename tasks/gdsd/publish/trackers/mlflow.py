"""MLflow: a run that is found again by its tag."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tasks.gdsd.config.publish import MlflowConfig
from tasks.gdsd.errors import PublishError, UnreachableError
from tasks.gdsd.publish.trackers.base import TrackedRun

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

RUN = "gdsd.run"  # the tag
TOKEN = "MLFLOW_TRACKING_TOKEN"
SQLITE = "sqlite:///"
METRICS, PARAMS = 1000, 100  # what the server takes at once
LONGEST = 6000  # of a parameter's value

Item = TypeVar("Item")


def track(config: MlflowConfig, run: TrackedRun, key: str | None) -> str:
    """Writes a run to the server or database; returns its address.

    A run that is there and ended is left as it is; one that was broken off is replaced.

    Raises:
        PublishError: the server refuses.
        UnreachableError: it does not answer.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    with _environment(key):
        try:
            client = MlflowClient(tracking_uri=config.uri)
            experiment = _experiment(client, config)
            for found in client.search_runs([experiment], f"tags.`{RUN}` = '{run.id}'"):
                if found.info.status == "FINISHED":
                    return _address(config, experiment, found.info.run_id)
                client.delete_run(found.info.run_id)
            return _address(config, experiment, _write(client, experiment, run))
        except MlflowException as error:
            raise _told(error, config.uri) from error


def _experiment(client: "MlflowClient", config: MlflowConfig) -> str:
    name, uri = config.experiment, config.uri
    if (found := client.get_experiment_by_name(name)) is not None:
        return str(found.experiment_id)
    place = None
    if uri.startswith(SQLITE):  # else the working folder
        place = (Path(uri.removeprefix(SQLITE)).absolute().parent / "mlflow-artifacts").as_uri()
    return str(client.create_experiment(name, artifact_location=place))


def _write(client: "MlflowClient", experiment: str, run: TrackedRun) -> str:
    from mlflow.entities import Metric, Param

    first, last = run.rows[0], run.rows[-1]
    tags = {RUN: run.id, "verdict": run.verdict, **last.words}
    made = client.create_run(experiment, int(1000 * first.unix_seconds), tags, run.name).info.run_id
    metrics = [
        Metric(name, number, int(1000 * row.unix_seconds), row.round)
        for row in run.rows
        for name, number in row.numbers.items()
    ]
    metrics += [Metric(name, value, int(1000 * last.unix_seconds), last.round) for name, value in run.results.items()]
    for part in _parts(metrics, METRICS):
        client.log_batch(made, metrics=part)
    params = [Param(name, str(value)[:LONGEST]) for name, value in run.config.items()]
    for some in _parts(params, PARAMS):
        client.log_batch(made, params=some)
    client.log_artifact(made, str(run.report))
    client.set_terminated(made, end_time=int(1000 * last.unix_seconds))
    return str(made)


def _address(config: MlflowConfig, experiment: str, run: str) -> str:
    uri = config.uri
    if uri.startswith(SQLITE):
        return f"{uri}, experiment {config.experiment}, run {run}"
    return f"{uri.rstrip('/')}/#/experiments/{experiment}/runs/{run}"


def _parts(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _told(error: "MlflowException", uri: str) -> PublishError:
    status = error.get_http_status_code()
    if status in (401, 403):
        return PublishError(
            f"{uri} refuses: {error}; set {TOKEN}, or on a cluster `token: true` and the secret of that name"
        )
    kind = UnreachableError if status in (408, 429) or status >= 500 else PublishError
    return kind(f"{uri} does not take the run: {error}")


@contextmanager
def _environment(key: str | None) -> Iterator[None]:
    """Tells MLflow the token, which it takes from the environment alone."""
    before = os.environ.get(TOKEN)
    if key is not None:
        os.environ[TOKEN] = key
    try:
        yield
    finally:
        if key is not None:
            os.environ.pop(TOKEN)
            os.environ.update({} if before is None else {TOKEN: before})
