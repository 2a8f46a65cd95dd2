"""TensorBoard: one event file for each run in a folder of any store, written anew when the run is told of again."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tasks.gdsd.config.publish import TensorBoardConfig
from tasks.gdsd.publish.trackers import files
from tasks.gdsd.publish.trackers.base import TrackedRun


def track(config: TensorBoardConfig, run: TrackedRun, options: Mapping[str, object]) -> str:
    """Writes the event file of a run; returns the command that shows it."""
    from torch.utils.tensorboard import SummaryWriter

    root, last = config.folder.rstrip("/"), run.rows[-1]
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
            settings = json.dumps(run.config, indent=1).replace("\n", "\n    ")
            writer.add_text("config", f"    {settings}", last.round, walltime=last.unix_seconds)
            writer.add_text("verdict", run.verdict, last.round, walltime=last.unix_seconds)
        (events,) = Path(name).iterdir()
        # Always of the same name, since TensorBoard draws whatever event files lie in a folder as one run.
        written = {f"events.out.tfevents.{run.id}": events, run.report.name: run.report}
        files.put(written, f"{root}/{run.name}-{run.id}", options)
    return f"tensorboard --logdir {root}"
