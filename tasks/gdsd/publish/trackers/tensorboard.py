"""TensorBoard: one event file for each run, written anew when the run is told of again."""

import json
import tempfile
from importlib.util import find_spec
from pathlib import Path

from tasks.gdsd.config.publish import TensorBoardConfig
from tasks.gdsd.publish.trackers import files
from tasks.gdsd.publish.trackers.base import TrackedRun


class TensorBoard:
    """Writes event files into a folder of any store."""

    def __init__(self, config: TensorBoardConfig, options: files.Options):
        self._folder, self._options = config.folder.rstrip("/"), options

    def missing(self) -> list[str]:
        """Returns what is not installed."""
        return [] if find_spec("tensorboard") else ["tensorboard"]

    def track(self, run: TrackedRun, key: str | None) -> str:
        """Writes the event file of a run; returns the command that shows it."""
        from torch.utils.tensorboard import SummaryWriter

        last = run.rows[-1]
        folder = f"{self._folder}/{run.name}-{run.id}"
        with tempfile.TemporaryDirectory(prefix="tensorboard-") as name:
            with SummaryWriter(name) as writer:
                for row in run.rows:
                    for metric, number in row.numbers.items():
                        writer.add_scalar(metric, number, row.round, walltime=row.unix_seconds)
                    for metric, word in row.words.items():
                        writer.add_text(metric, word, row.round, walltime=row.unix_seconds)
                for metric, number in run.results.items():
                    writer.add_scalar(metric, number, last.round, walltime=last.unix_seconds)
                # Four blanks make it code, whatever it holds.
                config = json.dumps(run.config, indent=1).replace("\n", "\n    ")
                writer.add_text("config", f"    {config}", last.round, walltime=last.unix_seconds)
                writer.add_text("verdict", run.verdict, last.round, walltime=last.unix_seconds)
            (events,) = Path(name).iterdir()
            # Always of the same name, since TensorBoard draws whatever event files lie in a folder as one run.
            files.put({f"events.out.tfevents.{run.id}": events, run.report.name: run.report}, folder, self._options)
        return f"tensorboard --logdir {self._folder}"
