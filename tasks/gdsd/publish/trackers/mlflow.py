"""MLflow: a run that is found again by its tag, and told only what it does not have yet."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tasks.gdsd.config.publish import SQLITE, MlflowConfig
from tasks.gdsd.errors import PublishError, UnreachableError
from tasks.gdsd.publish.trackers.base import TrackedRun
from tasks.gdsd.publish.trackers.environment import variables

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

RUN = "gdsd.run"  # the tag
TOKEN = "MLFLOW_TRACKING_TOKEN"
EACH = "reward/mean"  # a metric that each round has
PARAMS = 100  # what the server takes at once, beside 1000 metrics, which no round has
QUIET = {
    # Its library would ask seven times, over four minutes; who calls this tries again and says so.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_DISABLE_TELEMETRY": "true",  # to its makers, who are nobody that a run is told to
}
LONGEST = 6000  # of a parameter's value

Item = TypeVar("Item")


def track(config: MlflowConfig, run: TrackedRun, report: Path | None, key: str | None) -> str:
    """Writes to the server or database what it does not have of a run yet; returns the run's address.

    Raises:
        PublishError: the server refuses.
        UnreachableError: it does not answer.
    """
    with variables({} if key is None else {TOKEN: key}, unless_set=QUIET):
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        try:
            client = MlflowClient(tracking_uri=config.uri)
            experiment = _experiment(client, config)
            found = client.search_runs([experiment], f"tags.`{RUN}` = '{run.id}'")
            made = found[0].info.run_id if found else _make(client, experiment, run)
            _write(client, made, run, report)
            return _address(config, experiment, made)
        except MlflowException as error:
            raise _told(error) from error


def _experiment(client: "MlflowClient", config: MlflowConfig) -> str:
    name, uri = config.experiment, config.uri
    if (found := client.get_experiment_by_name(name)) is not None:
        return str(found.experiment_id)
    place = None
    if uri.startswith(SQLITE):  # else the working folder
        place = (Path(uri.removeprefix(SQLITE)).parent / "mlflow-artifacts").as_uri()
    return str(client.create_experiment(name, artifact_location=place))


def _make(client: "MlflowClient", experiment: str, run: TrackedRun) -> str:
    began = int(1000 * run.rows[0].unix_seconds)
    return str(client.create_run(experiment, began, {RUN: run.id}, run.name).info.run_id)


def _write(client: "MlflowClient", made: str, run: TrackedRun, report: Path | None) -> None:
    from mlflow.entities import Metric, Param

    there = client.get_run(made)
    known = {point.step for point in client.get_metric_history(made, EACH)}
    rows = [row for row in run.rows if row.round not in known]
    if rows and there.info.status != "RUNNING":
        client.update_run(made, status="RUNNING")  # it goes on
    values = {name: str(value)[:LONGEST] for name, value in run.config.items()}
    params = [Param(name, value) for name, value in values.items() if name not in there.data.params]
    for some in _parts(params, PARAMS):
        client.log_batch(made, params=some)
    for name, value in values.items():  # a parameter stays as it was: a tag says what it is now
        if there.data.params.get(name, value) != value:
            client.set_tag(made, name, value)
    for row in rows:  # as a whole, so that a round that was told of is there with all its metrics
        moment = int(1000 * row.unix_seconds)
        metrics = [Metric(name, number, moment, row.round) for name, number in row.numbers.items()]
        client.log_batch(made, metrics=metrics)
    last = run.rows[-1]
    for name, word in last.words.items():
        client.set_tag(made, name, word)
    if run.verdict is None:
        return
    moment = int(1000 * last.unix_seconds)
    if there.info.status != "FINISHED" or rows:
        results = [Metric(name, value, moment, last.round) for name, value in run.results.items()]
        client.log_batch(made, metrics=results)
    client.set_tag(made, "verdict", run.verdict)
    client.set_terminated(made, end_time=moment)
    if report is not None:  # last, since files go to a store of their own, which may not be reached from here
        client.log_artifact(made, str(report))


def _address(config: MlflowConfig, experiment: str, run: str) -> str:
    uri = config.uri
    if uri.startswith(SQLITE):
        return f"{uri}, experiment {config.experiment}, run {run}"
    return f"{uri.rstrip('/')}/#/experiments/{experiment}/runs/{run}"


def _parts(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _told(error: "MlflowException") -> PublishError:
    from urllib3.exceptions import MaxRetryError

    status = error.get_http_status_code()
    if status in (401, 403):
        return PublishError(
            f"it refuses: {error}; set {TOKEN}, or on a cluster `token: true` and the secret of that name"
        )
    if isinstance(error.__context__, OSError):  # of the connection, where the same is said three times over
        cause = error.__context__.args[0] if error.__context__.args else error.__context__
        return UnreachableError(f"it does not answer: {cause.reason if isinstance(cause, MaxRetryError) else cause}")
    kind = UnreachableError if status in (408, 429) or status >= 500 else PublishError
    return kind(f"it does not take the run: {error}")
