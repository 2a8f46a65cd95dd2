"""Keeps a record of a run that failed: the failure node of each workflow.

`failure.json` in a folder of its own says what failed, with the keys of `Failure`. `config.json` beside it is the run's
configuration. The log and the Deck say where they lie. On a cluster that is the store of the node's own data, and on
this machine the folder of all runs. The record never takes the place of the error, which fails the run as before.

flytekit gives a failure node the inputs of its workflow by name and type, and `err`. So each workflow has its own.
"""

import html
import logging
import re
from datetime import UTC, datetime
from pathlib import Path

from flytekit import Deck, current_context
from flytekit.types.error import FlyteError
from pydantic import BaseModel, ConfigDict

from tasks.flyte import commands
from tasks.flyte.console import speak
from tasks.flyte.kickoff import as_option
from tasks.flyte.local import in_pod, keep, new_folder
from tasks.flyte.stage import cpu_task
from tasks.flyte.types import Checkpoint
from tasks.gdsd.config.compare import CompareConfig
from tasks.gdsd.config.evaluate import EvaluateConfig
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.errors import GdsdError, StaleError
from tasks.gdsd.files import absolute
from tasks.gdsd.strict import Config

logger = logging.getLogger(__name__)
RECORD, CONFIG = "failure.json", "config.json"
MOMENT = "kickoff_time"
# Where a local run failed: flytekit names the task and each dynamic task around it, the innermost last, and
# `tasks.flyte.retry` the task of an error of the project.
_INSIDE = re.compile(r"Error encountered while executing '([^']+)'|\A\w+ in (\w+): ")


class Failure(BaseModel):
    """The record of a run that failed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    workflow: str
    experiment: str | None  # the configuration's name, where it has one
    node: str | None  # of the workflow, on a cluster
    task: str | None  # the innermost that failed; on a cluster see the node's attempts
    message: str  # of an error that is none of the project's with the traceback, on a cluster
    execution: str | None  # project:domain:name, on a cluster
    time: datetime  # UTC
    go_on: str  # command that starts the run again; what was finished comes from the cache

    def page(self, address: str) -> str:
        """Returns it for a Deck: nothing in it is taken for HTML."""
        rows = {name: value for name, value in self.model_dump(mode="json").items() if value is not None}
        cells = "".join(
            f"<tr><th scope='row' style='text-align:left;vertical-align:top;padding-right:1em'>{html.escape(name)}</th>"
            f"<td><pre style='white-space:pre-wrap;margin:0'>{html.escape(str(value))}</pre></td></tr>"
            for name, value in (rows | {"kept in": address}).items()
        )
        return f"<h2>The run failed</h2><table><caption>What failed, and how to go on</caption>{cells}</table>"


@cpu_task(hours=0.5, cached=False, deck=True)
def record_train_failure(config: TrainConfig, err: FlyteError | None = None) -> None:
    """Keeps what failed in `train`."""
    _record(err, "workflows/gdsd.py", "train", config, config.name, {})


@cpu_task(hours=0.5, cached=False, deck=True)
def record_compare_failure(config: CompareConfig, err: FlyteError | None = None) -> None:
    """Keeps what failed in `compare`."""
    _record(err, "workflows/gdsd.py", "compare", config, config.name, {})


@cpu_task(hours=0.5, cached=False, deck=True)
def record_evaluate_failure(policy: Checkpoint, config: EvaluateConfig, err: FlyteError | None = None) -> None:
    """Keeps what failed in `evaluate`."""
    given = {"policy": absolute(str(policy.remote_source or policy.path))}
    _record(err, "workflows/gdsd.py", "evaluate", config, None, given)


@cpu_task(hours=0.5, cached=False, deck=True)
def record_retrain_failure(
    config: TrainConfig, registry: str, kickoff_time: datetime, err: FlyteError | None = None
) -> None:
    """Keeps what failed in `retrain`; a policy that is stale stays so, and another night goes on from the champion."""
    is_stale = err is not None and StaleError.REMEDY in err.message
    given = {"registry": absolute(registry), MOMENT: "now" if is_stale else as_option(kickoff_time)}
    _record(err, "workflows/retrain.py", "retrain", config, config.name, given)


@cpu_task(hours=0.5, cached=False, deck=True)
def record_evaluate_champion_failure(
    config: EvaluateConfig, registry: str, kickoff_time: datetime, err: FlyteError | None = None
) -> None:
    """Keeps what failed in `evaluate_champion`."""
    given = {"registry": absolute(registry), MOMENT: as_option(kickoff_time)}
    _record(err, "workflows/retrain.py", "evaluate_champion", config, None, given)


def _record(
    err: FlyteError | None, file: str, workflow: str, config: Config, experiment: str | None, given: dict[str, str]
) -> None:
    """Writes the record; where even that fails, says so and no more, since the run's own error is what matters."""
    speak()  # a pod loads this module alone
    try:
        folder = new_folder(f"failed-{experiment or workflow}")
        (folder / CONFIG).write_text(config.model_dump_json(indent=2) + "\n", "utf-8")
        failure = _describe(err, workflow, experiment, _go_on(file, workflow, given, folder))
        (folder / RECORD).write_text(failure.model_dump_json(indent=2) + "\n", "utf-8")
        address = keep(folder)
        where = failure.task or failure.node
        logger.error("%s failed%s; kept in %s", workflow, f" in {where}" if where else "", address)
        logger.error("to go on%s: %s", ", with the configuration from there" if in_pod() else "", failure.go_on)
        Deck("Failure", failure.page(address))
    except (GdsdError, OSError) as error:
        logger.error("the failure of %s could not be recorded: %s", workflow, error)
    except Exception:
        logger.exception("the failure of %s could not be recorded", workflow)


def _go_on(file: str, workflow: str, given: dict[str, str], folder: Path) -> str:
    """Returns the command that starts a run again.

    It is the person's own where that is known, since they may have corrected data or code that the configuration in
    the folder pins. For a moment such as `now` it has the one that the run began with, which is in the cache's keys.
    """
    moment = {name: value for name, value in given.items() if name == MOMENT}
    # On a cluster the file lies beside the record, in a store.
    options = given | {"config": CONFIG if in_pod() else str(folder / CONFIG)}
    return commands.again(file, workflow, *_words(moment)) or commands.run(file, workflow, *_words(options))


def _words(options: dict[str, str]) -> list[str]:
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def _describe(err: FlyteError | None, workflow: str, experiment: str | None, go_on: str) -> Failure:
    message = err.message if err is not None else "Flyte gave no reason; see the execution"
    running = current_context().execution_id if in_pod() else None
    tasks = [one or other for one, other in _INSIDE.findall(message)]
    return Failure(
        workflow=workflow,
        experiment=experiment,
        # Locally flytekit names the failure node itself.
        node=err.failed_node_id if err is not None and running is not None else None,
        task=tasks[-1] if tasks else None,
        message=message,
        execution=None if running is None else f"{running.project}:{running.domain}:{running.name}",
        time=datetime.now(UTC),
        go_on=go_on,
    )
