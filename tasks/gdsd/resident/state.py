"""What resident rounds keep after each round, so that whoever takes them up again goes on from there.

It is one file, which a disk or an object store replaces as a whole: an archive of a working folder. In that are the
policy as a checkpoint, a record of the rounds, and, inside a round whose updates have begun, the rewarded completions
and the epoch's own state.
"""

import logging
import os
import shutil
import tarfile
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tasks.gdsd.config.sampler import RolloutEngine
from tasks.gdsd.distill import resume
from tasks.gdsd.errors import CheckpointError, DataError
from tasks.gdsd.records import DriftStats, EpochStats, Made, Record, RewardStats

logger = logging.getLogger(__name__)
FILE = "rounds.tar"
RECORD, REWARDED, KEPT = "rounds.json", "rewarded.parquet", "kept"  # in the working folder
POLICY = "policy"  # likewise: the checkpoint of the last whole round


class Collected(Record):
    """The completions of a round whose updates are not done yet: what they showed, and which engine made them."""

    engine: RolloutEngine
    drift: DriftStats | None
    reward: RewardStats

    def after(self, made: Made, epoch: EpochStats) -> Made:
        """Returns what the rounds came to with this one."""
        return Made(
            engine=self.engine,
            drifts=[*made.drifts, *([self.drift] if self.drift is not None else [])],
            rewards=[*made.rewards, self.reward],
            epochs=[*made.epochs, epoch],
        )


class StateRecord(Record):
    """Where the rounds are."""

    rounds: str  # digest of all that they follow from
    made: Made
    collected: Collected | None = None


@dataclass(frozen=True)
class Keeper:
    """Keeps the states of some rounds in a file, and sends it to where the next attempt finds it."""

    work: Path  # the folder that is kept
    file: Path
    send: Callable[[Path], None] | None

    def keep(self, record: StateRecord) -> None:
        """Keeps the working folder as it is now, with a record of where the rounds are.

        Raises:
            OSError: this machine's disk does not take it.
        """
        note(self.work, record)
        with suppress(FileNotFoundError):  # a run of the same rounds at once takes the folder with it when it ends
            self.file.parent.mkdir(exist_ok=True)
            partial = self.file.with_name(f"{uuid.uuid4().hex}.partial")
            with tarfile.open(partial, "w") as archive:
                archive.add(self.work, ".")
            os.replace(partial, self.file)
        if self.send is not None:
            resume.store(self.file, self.send)


def note(work: Path, record: StateRecord) -> None:
    """Writes where the rounds are into a working folder."""
    partial = work / f"{RECORD}.partial"
    partial.write_text(record.model_dump_json())
    os.replace(partial, work / RECORD)


def read(work: Path) -> StateRecord | None:
    """Reads where the rounds are from a working folder; None where they have not begun.

    Raises:
        DataError: the record is damaged.
    """
    return StateRecord.load(work / RECORD) if (work / RECORD).is_file() else None


def take_up(file: Path, work: Path, rounds: str) -> StateRecord | None:
    """Empties a working folder, and fills it with what an earlier attempt at these rounds has kept, if that is whole.

    Returns:
        Where that attempt was.
    """
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    if not file.is_file():
        return None
    try:
        with tarfile.open(file, "r:") as archive:
            archive.extractall(work, filter="data")  # foreign members, links and paths that lead out are refused
        record = StateRecord.load(work / RECORD)
        if record.rounds != rounds:
            raise CheckpointError(f"the state {file} is of other rounds")
    except (tarfile.TarError, OSError, DataError, CheckpointError) as error:
        logger.warning("the state of an earlier attempt cannot be used (%s); its rounds are made anew", error)
        shutil.rmtree(work)
        work.mkdir()
        return None
    logger.info("an earlier attempt has made %d of these rounds; going on", len(record.made.epochs))
    return record
