"""TensorBoard: a folder of any store for each run, with an event file for each round."""

import json
import shlex
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.gdsd.config.publish import TensorBoardConfig
from tasks.gdsd.publish.trackers import files
from tasks.gdsd.publish.trackers.base import Row, TrackedRun

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Part = Callable[["SummaryWriter"], None]


def track(config: TensorBoardConfig, run: TrackedRun, report: Path | None, options: Mapping[str, object]) -> str:
    """Writes what the run's folder does not have yet; returns the command that shows it.

    A file is never written to again. So a TensorBoard that is open reads on, and no store has to append.
    """
    from torch.utils.tensorboard import SummaryWriter

    root = config.folder.rstrip("/")
    folder = f"{root}/{run.name}-{run.id}"
    there = files.names(folder, options)
    missing = {name: write for name, write in _parts(run).items() if name not in there}
    with tempfile.TemporaryDirectory(prefix="tensorboard-") as place:
        written: dict[str, Path] = {} if report is None else {report.name: report}
        for name, write in missing.items():
            with SummaryWriter(f"{place}/{name}") as writer:
                write(writer)
            (written[name],) = Path(place, name).iterdir()
        files.put(written, folder, options)
    return f"tensorboard --logdir {shlex.quote(root)}"


def _parts(run: TrackedRun) -> dict[str, Part]:
    """Returns what writes each event file; TensorBoard draws all files of a folder as one run, in order of name."""
    rounds: dict[str, Part] = {f"{row.round:06}": partial(_round, row) for row in run.rows}
    parts: dict[str, Part] = {"000000": partial(_beginning, run), **rounds}
    if run.verdict is not None:
        parts[f"{run.rows[-1].round:06}.end"] = partial(_end, run, run.verdict)
    return {f"events.out.tfevents.{name}.{run.id}": write for name, write in parts.items()}


def _beginning(run: TrackedRun, writer: "SummaryWriter") -> None:
    # Four blanks make it code, whatever it holds.
    settings = json.dumps(run.config, indent=1).replace("\n", "\n    ")
    writer.add_text("config", f"    {settings}", 0, walltime=run.rows[0].unix_seconds)


def _round(row: Row, writer: "SummaryWriter") -> None:
    for metric, number in row.numbers.items():
        writer.add_scalar(metric, number, row.round, walltime=row.unix_seconds)
    for metric, word in row.words.items():
        writer.add_text(metric, word, row.round, walltime=row.unix_seconds)


def _end(run: TrackedRun, verdict: str, writer: "SummaryWriter") -> None:
    last = run.rows[-1]
    for metric, number in run.results.items():
        writer.add_scalar(metric, number, last.round, walltime=last.unix_seconds)
    writer.add_text("verdict", verdict, last.round, walltime=last.unix_seconds)
