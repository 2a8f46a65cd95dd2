"""Epochs whose states are kept on the way, for tests: where they go, and epochs that are interrupted."""

import os
import shutil
import signal
from dataclasses import dataclass, replace
from pathlib import Path

from tasks.gdsd import tables
from tasks.gdsd.config.policy import AdapterConfig
from tasks.gdsd.config.train import DistillConfig
from tasks.gdsd.denoiser import checkpoint
from tasks.gdsd.distill import processes
from tasks.gdsd.distill.epoch import Epoch
from tasks.gdsd.distill.epoch import _train as train_here
from tasks.gdsd.records import EpochStats
from tests.gdsd.checkpoints import trained
from tests.gdsd.conftest import build
from tests.gdsd.epochs import GROUP, ended, rewarded


class Interrupted(Exception):
    """The machine is taken away, so to speak."""


@dataclass(frozen=True)
class Copier:
    """Keeps every state under a number; after one of them the process ends."""

    folder: Path
    last: int | None = None  # ends it
    kill: bool = False  # in a way that nothing can catch

    def __call__(self, file: Path) -> None:
        number = len(list(self.folder.iterdir())) + 1
        shutil.copyfile(file, self.folder / f"{number}.safetensors")
        if number == self.last:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise Interrupted


def epoch(folder: Path, config: DistillConfig, adapter: bool = False, based: bool = False) -> Epoch:
    """An epoch of a policy that was trained before, with all that it reads written to a folder."""
    denoiser = build()
    if adapter:
        denoiser.attach_adapter(AdapterConfig(rank=4, alpha=8.0), 0)
    policy, base = folder / "policy", folder / "base"
    checkpoint.save(policy, trained(denoiser))
    checkpoint.save(base, checkpoint.base_state(build(seed=1)))
    table = ended(rewarded(denoiser, range(5)), denoiser.end_id)
    states = folder / "states"
    states.mkdir()
    compute = config.compute.model_copy(update={"save_minutes": 0.0})
    return Epoch(
        policy=policy,
        base=base if based else None,
        rewarded=tables.write(table, tables.REWARDED, folder / "rewarded.parquet"),
        config=config.model_copy(update={"compute": compute}),
        group_size=GROUP,
        round_index=1,
        seed=7,
        trained=folder / "trained",
        evidence=folder / "evidence",
        send=Copier(states),
    )


def again(first: Epoch, name: str, found: Path | None, last: int | None = None, kill: bool = False) -> Epoch:
    """The same epoch, as another attempt at it on an empty machine."""
    folder = first.trained.parent / name
    (folder / "states").mkdir(parents=True)
    send = Copier(folder / "states", last, kill)
    return replace(first, trained=folder / "trained", evidence=folder / "evidence", found=found, send=send)


def state(of: Epoch, number: int) -> Path:
    return of.trained.parent / "states" / f"{number}.safetensors"


def train_and_resume(epochs: tuple[Epoch, ...]) -> list[list[EpochStats]]:
    """What each of several processes does: every epoch, and then again from each of its states."""
    found = []
    for first in epochs:
        found.append([train_here(first)])
        for number in range(1, first.config.inner_steps + 1):
            if processes.place()[0] == 0:
                again(first, f"from {number}", None)
            resumed = replace(
                first,
                trained=first.trained.parent / f"from {number}" / "trained",
                found=state(first, number),
                send=Copier(first.trained.parent / f"from {number}" / "states"),
            )
            found[-1].append(train_here(resumed))
    return found
