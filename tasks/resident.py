"""Stage `resident`: several rounds as one task, with the policy in memory from the first to the last."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from flytekit.types.file import FlyteFile
from pydantic import BaseModel

from tasks.distill import reference
from tasks.flyte import folders
from tasks.flyte.attempts import Sender, states
from tasks.flyte.console import speak
from tasks.flyte.local import in_pod, keep, new_folder
from tasks.flyte.sources import source_digest
from tasks.flyte.stage import gpu_task
from tasks.flyte.telling import Teller, shown
from tasks.flyte.types import Checkpoint, ProgressFile, Table, stored
from tasks.gdsd.config.sampler import RolloutEngine
from tasks.gdsd.config.train import ResidentConfig
from tasks.gdsd.domains import DomainChoice
from tasks.gdsd.errors import NonFiniteError
from tasks.gdsd.files import digest
from tasks.gdsd.records import DriftStats, EpochStats, Progress, RewardStats

if TYPE_CHECKING:
    from tasks.gdsd.resident.rounds import Rounds


class Stayed(NamedTuple):
    """What the rounds came to."""

    checkpoint: Checkpoint
    engine: RolloutEngine  # which makes the next rollouts
    drifts: list[DriftStats]
    rewards: list[RewardStats]
    epochs: list[EpochStats]
    completions: list[Table]  # schema `tables.REWARDED`, of the rounds that are kept


@gpu_task(hours=72, ignored=("domain", "name", "rounds", "before"), deck=True)
def train_rounds(
    policy: Checkpoint,
    base: Checkpoint,
    train: Table,
    domain: DomainChoice,
    engine: RolloutEngine,
    config: ResidentConfig,
    first: int,
    end: int,
    name: str,
    rounds: int,
    before: list[ProgressFile],
) -> Stayed:
    """Trains the policy for the rounds from `first` to before `end`, with what the stages of each round do.

    The state is kept after each round, from which the next attempt, or the same local run, goes on after a kill.

    Args:
        domain: that judges; `config` has its rule alone
        engine: which makes the first rollouts; `config.rollout.engine` has its limits
        name, rounds, before: of the run, on its page: its name, how many rounds it has, what it recorded before

    Raises:
        SandboxError: this machine cannot judge the domain's answers; nothing was computed.
        NonFiniteError: several updates in a row were not finite; the evidence was saved.
        OutOfMemoryError: there is not enough memory for the smallest micro-batch.
    """
    from tasks.gdsd.resident.rounds import train as make

    evidence, done = new_folder("evidence"), new_folder("policy") / "checkpoint"
    tables = new_folder("completions") / "kept"
    tell = Teller(name, rounds, Progress.read(before), shows=config.distill.compute.processes == 1 or not in_pod())
    asked = _ask(policy, base, train, engine, config, range(first, end), evidence, tell).judged_by(domain)
    try:
        with shown(tell, asked.work):
            made = make(asked, done, tables)
    except NonFiniteError as error:
        raise NonFiniteError(f"{error} Weights and batch are in {keep(evidence)}.") from error
    finally:
        shutil.rmtree(asked.work, ignore_errors=True)
    for spare in (evidence, asked.file.parent):
        shutil.rmtree(spare, ignore_errors=True)  # a run of the same rounds at once may have taken the second
    kept = [FlyteFile(str(file)) for file in sorted(tables.iterdir())]
    return Stayed(stored(done), made.engine, made.drifts, made.rewards, made.epochs, kept)


def _ask(
    policy: Checkpoint,
    base: Checkpoint,
    train: Table,
    engine: RolloutEngine,
    config: ResidentConfig,
    block: range,
    evidence: Path,
    tell: Teller,
) -> "Rounds":
    """Fetches what rounds read, and says where they keep their state: what an earlier attempt has left is there."""
    from tasks.gdsd.resident.rounds import Rounds
    from tasks.gdsd.resident.state import FILE

    folder, table = Path(os.fspath(policy)), Path(os.fspath(train))
    home = reference(folder, base, config.distill)
    key = _key([folder, home, table], [engine, config], block.start)
    file, send = _place(key, FILE)
    return Rounds(
        policy=folder,
        base=home,
        train=table,
        engine=engine,
        config=config,
        first=block.start,
        end=block.stop,
        key=key,
        work=Path(tempfile.mkdtemp(prefix="rounds-")),
        file=file,
        evidence=evidence,
        tell=tell,
        send=send,
        speak=speak,
    )


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
