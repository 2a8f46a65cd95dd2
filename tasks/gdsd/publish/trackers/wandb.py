"""Weights & Biases: a run by its id, sent or written for `wandb sync`."""

import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.gdsd.config.publish import WandbConfig
from tasks.gdsd.errors import PublishError, UnreachableError
from tasks.gdsd.publish.trackers import files
from tasks.gdsd.publish.trackers.base import TrackedRun
from tasks.gdsd.publish.trackers.environment import variables

if TYPE_CHECKING:
    from wandb import Run, Settings

QUIET = {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}  # nothing of the process, as in the settings below
SECONDS = 30.0  # until the server has taken a run in
SENDING = 300.0  # until it has all of it


def track(
    config: WandbConfig, run: TrackedRun, report: Path | None, key: str | None, options: Mapping[str, object]
) -> str:
    """Sends or writes a run; returns its address, or the command that sends it.

    A run that is there is taken up; what it has of an earlier time it does not take twice.

    Raises:
        PublishError: there is no key, or it is not accepted.
        UnreachableError: the server does not answer.
    """
    with (
        variables({}, unless_set=QUIET),
        tempfile.TemporaryDirectory(prefix="wandb-", ignore_cleanup_errors=True) as place,
    ):
        url = _send(config, run, report, key, place)
        if config.folder is None:
            return url
        (written,) = Path(place).glob("wandb/offline-run-*")
        found = {
            str(path.relative_to(written)): path
            for path in written.rglob("*")
            if path.is_file() and "logs" not in path.parts
        }
        folder = f"{config.folder.rstrip('/')}/offline-run-{run.id}"
        files.put(found, folder, options)
    return f"wandb sync {shlex.quote(folder)}"


def _send(config: WandbConfig, run: TrackedRun, report: Path | None, key: str | None, place: str) -> str:
    import wandb
    from wandb.errors import AuthenticationError, CommError, UsageError

    try:
        told = wandb.init(
            project=config.project,
            entity=config.entity,
            id=run.id,
            name=run.name,
            config=dict(run.config),
            mode=config.mode,
            dir=place,
            resume="allow",
            settings=_settings(None if config.mode == "offline" else key),
        )
        try:
            _tell(told, run, report)
        finally:
            told.finish()
        return str(told.url)
    except (AuthenticationError, UsageError) as error:
        raise PublishError(
            f"Weights & Biases refuses: {error}; set WANDB_API_KEY, or on a cluster the secret of that name"
        ) from error
    except (CommError, TimeoutError) as error:
        raise UnreachableError(f"Weights & Biases does not take the run: {error}") from error
    finally:
        # W&B's process would write the file later than here, and take no run again that it once could not send.
        wandb.teardown()


def _settings(key: str | None) -> "Settings":
    """Returns settings by which the run is sent and nothing of its process: no output, machine, code or packages."""
    from wandb import Settings

    return Settings(
        api_key=key,
        host="",  # else it is looked up
        init_timeout=SECONDS,
        finish_timeout=SENDING,
        finish_timeout_raises=True,
        console="off",
        silent=True,
        disable_code=True,
        disable_git=True,
        disable_job_creation=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )


def _tell(told: "Run", run: TrackedRun, report: Path | None) -> None:
    import wandb

    told.define_metric("round")
    told.define_metric("*", step_metric="round")
    for row in run.rows:
        logged = {**row.numbers, **row.words, "round": row.round, "_timestamp": row.unix_seconds}
        told.log(logged, step=row.round)  # W&B leaves out a step that a run already has
    if run.verdict is not None:
        told.summary.update({**run.results, "verdict": run.verdict})
    if report is not None:
        told.summary["report"] = wandb.Html(str(report), inject=False)
