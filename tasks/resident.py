"""Stage `resident`: several rounds as one task, with the policy in memory from the first to the last."""

import hashlib
import importlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, cast

from flytekit.types.file import FlyteFile
from pydantic import BaseModel

from tasks.distill import reference
from tasks.flyte import folders
from tasks.flyte.attempts import Sender, states
from tasks.flyte.console import speak
from tasks.flyte.local import in_pod, keep, new_folder
from tasks.flyte.sources import source_digest
from tasks.flyte.stage import gpu_task
from tasks.flyte.types import Checkpoint, ProgressFile, Table, stored
from tasks.gdsd.config.sampler import RolloutEngine
from tasks.gdsd.config.train import ResidentConfig
from tasks.gdsd.errors import NonFiniteError
from tasks.gdsd.files import digest
from tasks.gdsd.records import DriftStats, EpochStats, Progress, RewardStats


class Stayed(NamedTuple):
    """What the rounds came to."""

    checkpoint: Checkpoint
    engine: RolloutEngine  # which makes the next rollouts
    drifts: list[DriftStats]
    rewards: list[RewardStats]
    epochs: list[EpochStats]
    completions: list[Table]  # schema `tables.REWARDED`, of the rounds that are kept


@gpu_task(hours=72, ignored=("name", "rounds", "before"), deck=True)
def train_rounds(
    policy: Checkpoint,
    base: Checkpoint,
    train: Table,
    engine: RolloutEngine,
    config: ResidentConfig,
    first: int,
    end: int,
    name: str,
    rounds: int,
    before: list[ProgressFile],
) -> Stayed:
    """Trains the policy for the rounds from `first` to before `end`, with what the stages of each round do.

    The state is kept after each round, as Flyte's checkpoint or in the folder of local runs; what follows a kill goes on.

    Args:
        engine: which makes the first rollouts; `config.rollout.engine` has its limits
        name, rounds, before: of the run, on its page: its name, how many rounds it has, what it recorded before

    Raises:
        SandboxError: this machine cannot judge the domain's answers; nothing was computed.
        NonFiniteError: several updates in a row were not finite; the evidence was saved.
        OutOfMemoryError: there is not enough memory for the smallest micro-batch.
    """
    from tasks.gdsd.resident.rounds import Rounds
    from tasks.gdsd.resident.rounds import train as work_through
    from tasks.gdsd.resident.state import FILE

    folder, table = Path(os.fspath(policy)), Path(os.fspath(train))
    home = reference(folder, base, config.distill)
    key = _key([folder, home, table], [engine, config], first)
    place, send = _place(key, FILE)
    work, evidence = Path(tempfile.mkdtemp(prefix="rounds-")), new_folder("evidence")
    done, tables = new_folder("policy") / "checkpoint", new_folder("completions") / "kept"
    asked = Rounds(
        policy=folder,
        base=home,
        train=table,
        engine=engine,
        config=config,
        first=first,
        end=end,
        key=key,
        work=work,
        file=place,
        evidence=evidence,
        tell=Teller(name, rounds, Progress.read(before)),
        send=send,
        speak=speak,
    )
    try:
        made = work_through(asked, done, tables)
    except NonFiniteError as error:
        raise NonFiniteError(f"{error} Weights and batch are in {keep(evidence)}.") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    evidence.rmdir()
    shutil.rmtree(place.parent)
    completions = [FlyteFile(str(file)) for file in sorted(tables.iterdir())]
    return Stayed(stored(done), made.engine, made.drifts, made.rewards, made.epochs, completions)


@dataclass
class Teller:
    """Shows where a run is after each round; in the process that makes the rounds, so it can be sent there."""

    name: str
    rounds: int
    progress: Progress

    def __call__(self, drift: DriftStats | None, reward: RewardStats, epoch: EpochStats) -> None:
        """Adds a round to what the run has recorded, and shows it."""
        so_far = self.progress
        self.progress = so_far.model_copy(
            update={
                "drifts": [*so_far.drifts, *([] if drift is None else [drift])],
                "rewards": [*so_far.rewards, reward],
                "epochs": [*so_far.epochs, epoch],
            }
        )
        # By its name, so that what a page looks like is no part of the cache's key of the rounds.
        pages = cast(_Pages, importlib.import_module("tasks.progress"))
        pages.show_round(self.name, self.rounds, self.progress)


class _Pages(Protocol):
    def show_round(self, name: str, rounds: int, progress: Progress) -> None: ...


def _key(files: Sequence[Path | None], configs: Sequence[BaseModel], first: int) -> str:
    """Returns a digest of all that rounds follow from; which one is the last is not part of it."""
    read = [None if file is None else digest(file) for file in files]
    said = [source_digest(__name__), read, [config.model_dump(mode="json") for config in configs], first]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _place(key: str, name: str) -> tuple[Path, Sender | None]:
    """Returns the file in which the state of rounds is kept, with what an earlier attempt has left, and its sender."""
    if not in_pod():
        return folders.named(f"rounds-{key[:32]}") / name, None
    found, send = states(True, name)
    file = Path(tempfile.mkdtemp(prefix="state-")) / name
    if found is not None:
        shutil.copyfile(found, file)
    return file, send
