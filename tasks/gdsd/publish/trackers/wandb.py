"""Weights & Biases: a run by its id, sent or written for `wandb sync`."""

import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.gdsd.config.publish import WandbConfig
from tasks.gdsd.errors import PublishError, UnreachableError
from tasks.gdsd.publish.trackers import files
from tasks.gdsd.publish.trackers.base import TrackedRun

if TYPE_CHECKING:
    from wandb import Run

SECONDS = 120.0  # until the server has taken a run in


class Wandb:
    """Makes a run, or takes one up that was broken off; what it has of an earlier time it does not take twice."""

    def __init__(self, config: WandbConfig, options: files.Options):
        self._config, self._options = config, options

    def missing(self) -> list[str]:
        """Returns what is not installed."""
        return [] if find_spec("wandb") else ["wandb"]

    def track(self, run: TrackedRun, key: str | None) -> str:
        """Sends or writes a run; returns its address, or the command that sends it.

        Raises:
            PublishError: there is no key, or it is not accepted.
            UnreachableError: the server does not answer.
        """
        import wandb
        from wandb.errors import AuthenticationError, CommError, UsageError

        offline = self._config.mode == "offline"
        with tempfile.TemporaryDirectory(prefix="wandb-", ignore_cleanup_errors=True) as name:
            settings = wandb.Settings(
                api_key=None if offline else key,
                init_timeout=SECONDS,
                console="off",  # nothing of this process beside the run: no output, machine, code or packages
                silent=True,
                disable_code=True,
                disable_git=True,
                disable_job_creation=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_save_requirements=False,
            )
            try:
                told = wandb.init(
                    project=self._config.project,
                    entity=self._config.entity,
                    id=run.id,
                    name=run.name,
                    config=dict(run.config),
                    mode=self._config.mode,
                    dir=name,
                    resume="allow",
                    settings=settings,
                )
                try:
                    self._tell(told, run)
                finally:
                    told.finish()
            except (AuthenticationError, UsageError) as error:
                raise PublishError(
                    f"Weights & Biases refuses: {error}; set WANDB_API_KEY, or on a cluster the secret of that name"
                ) from error
            except (CommError, TimeoutError) as error:
                raise UnreachableError(f"Weights & Biases does not take the run: {error}") from error
            if self._config.folder is None:
                return str(told.url)
            # The end of a run does not wait for its file; that of W&B's process does.
            wandb.teardown()
            (written,) = Path(name).glob("wandb/offline-run-*")
            found = {
                str(path.relative_to(written)): path
                for path in written.rglob("*")
                if path.is_file() and "logs" not in path.parts
            }
            folder = f"{self._config.folder.rstrip('/')}/offline-run-{run.id}"
            files.put(found, folder, self._options)
        return f"wandb sync {folder}"

    def _tell(self, told: "Run", run: TrackedRun) -> None:
        import wandb

        told.define_metric("round")
        told.define_metric("*", step_metric="round")
        for row in run.rows:
            shown = {"report": wandb.Html(str(run.report), inject=False)} if row is run.rows[-1] else {}
            logged = {**row.numbers, **row.words, **shown, "round": row.round, "_timestamp": row.unix_seconds}
            told.log(logged, step=row.round)  # W&B leaves out a step that a run already has
        told.summary.update({**run.results, "verdict": run.verdict})
