"""What an unfinished epoch keeps after an update, so that the next attempt at it goes on from there.

It is one file, which an object store replaces as a whole. It says itself to which epoch it belongs and what its digest
is. A file that is damaged, or of another epoch, is not used.
"""

import hashlib
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from accelerate import Accelerator
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tasks.gdsd import transient
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.distill import optimizer_state, processes
from tasks.gdsd.distill.microbatch import Cut
from tasks.gdsd.errors import CheckpointError
from tasks.gdsd.records import Record, StepStats

logger = logging.getLogger(__name__)
FILE = "interim.safetensors"
WEIGHTS, MOMENTS = "weights.", "moments."  # before the names of tensors


class Reached(Record):
    """How far an epoch has got."""

    updates: int  # as in a checkpoint's record
    skipped_in_a_row: int
    steps: list[StepStats] = Field(default_factory=list)
    seconds: float = 0.0  # that the attempts so far took

    def after(self, step: StepStats) -> Self:
        """Returns how far the epoch has got with one step more."""
        return self.model_copy(
            update={
                "updates": self.updates + (not step.skipped),
                "skipped_in_a_row": self.skipped_in_a_row + 1 if step.skipped else 0,
                "steps": [*self.steps, step],
            }
        )

    def in_all(self, seconds: float) -> Self:
        """Returns it with the seconds of this attempt added."""
        return self.model_copy(update={"seconds": self.seconds + seconds})


class InterimRecord(Record):
    """Where an epoch is."""

    epoch: str  # digest of all that the epoch follows from
    reached: Reached
    cuts: list[Cut]  # of each process


@dataclass(frozen=True)
class Interim:
    """A loaded state of an unfinished epoch."""

    record: InterimRecord
    weights: dict[str, Tensor]  # of what is trained
    moments: dict[str, Tensor]


class Keeper:
    """Keeps the states of one epoch, and takes over what an earlier attempt at it has kept.

    Every process has one; the first writes and sends.
    """

    def __init__(self, epoch: str, minutes: float, file: Path, found: Path | None, send: Callable[[Path], None]):
        """Begins to wait for the next time to save.

        Args:
            epoch: digest of all that the epoch follows from.
            minutes: at least so many are between two states; 0: one after each update.
            file: where this machine writes a state before it is sent.
            found: what an earlier attempt has left.
            send: puts a file where the next attempt finds it, in place of the one before.
        """
        self.epoch, self.minutes, self.file, self.found, self.send = epoch, minutes, file, found, send
        self.last = time.monotonic()

    def take(self, accelerator: Accelerator) -> Interim | None:
        """Returns the state to go on from, if an earlier attempt has left one that is whole and of this epoch."""
        interim, reason = None, None
        if self.found is not None:
            try:
                interim = read(self.found, self.epoch)
            except CheckpointError as error:
                reason = str(error)
        everywhere = all(processes.gather(interim is not None, accelerator))  # each machine has its own copy
        if reason is not None and accelerator.is_local_main_process:
            logger.warning("%s; the epoch starts afresh", reason)
        if interim is None or not everywhere:
            return None
        if accelerator.is_main_process:
            logger.info(
                "an earlier attempt at this epoch got to update %d; going on", len(interim.record.reached.steps)
            )
        return interim

    def due(self, accelerator: Accelerator) -> bool:
        """Whether it is time to save, by the clock of the first process."""
        first, *_ = processes.gather(time.monotonic() - self.last >= 60 * self.minutes, accelerator)
        return first

    def keep(
        self,
        reached: Reached,
        cuts: list[Cut],
        denoiser: Denoiser,
        optimizer: torch.optim.AdamW,
        accelerator: Accelerator,
    ) -> None:
        """Writes and sends a state; training goes on without it if it cannot be sent now."""
        began, first = time.monotonic(), accelerator.is_main_process
        weights = optimizer_state.collect_weights(denoiser, first)
        moments = optimizer_state.collect(optimizer, denoiser, first)
        if not first:
            return
        write(self.file, InterimRecord(epoch=self.epoch, reached=reached, cuts=cuts), weights, moments)
        size = self.file.stat().st_size
        store(self.file, self.send)
        self.file.unlink()
        self.last = time.monotonic()
        seconds = self.last - began
        logger.info("kept the epoch's state after update %d (%.3g MB, %.1f s)", len(reached.steps), size / 1e6, seconds)


def store(file: Path, send: Callable[[Path], None]) -> None:
    """Sends a state; the epoch goes on without it if it cannot be sent now."""
    try:
        send(file)
    except Exception as error:
        if not transient.may_pass(error):
            raise
        logger.warning("the epoch's state could not be sent, going on without: %s", error)


def write(file: Path, record: InterimRecord, weights: dict[str, Tensor], moments: dict[str, Tensor]) -> None:
    """Writes a state beside its place and renames it."""
    named = {WEIGHTS + name: tensor for name, tensor in weights.items()}
    named |= {MOMENTS + name: tensor for name, tensor in moments.items()}
    said = record.model_dump_json()
    partial = file.with_suffix(".partial")
    header = {"record": said, "sha256": _digest(said, named)}
    save_file({name: tensor.contiguous() for name, tensor in named.items()}, partial, metadata=header)
    os.replace(partial, file)


def read(file: Path, epoch: str) -> Interim:
    """Reads the state of an epoch.

    Raises:
        CheckpointError: the file is missing, damaged, or of another epoch.
    """
    try:
        with safe_open(file, "pt") as opened:
            header = opened.metadata() or {}
            named = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118, it is no mapping
        record = InterimRecord.model_validate_json(header.get("record", ""))
    except (SafetensorError, OSError, ValidationError) as error:
        raise CheckpointError(f"the interim state {file} of an earlier attempt cannot be read ({error})") from error
    if record.epoch != epoch:
        raise CheckpointError(
            f"the interim state {file} is of another epoch, with other inputs or processes: {record.epoch[:12]}, "
            f"and this is {epoch[:12]}"
        )
    if header.get("sha256") != _digest(header["record"], named):
        raise CheckpointError(f"the interim state {file} of an earlier attempt is damaged: its digest is another")
    return Interim(record, _under(WEIGHTS, named), _under(MOMENTS, named))


def _under(prefix: str, named: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in named.items() if name.startswith(prefix)}


def _digest(said: str, named: dict[str, Tensor]) -> str:
    """Returns the SHA-256 of a record and of tensors with their names, types and shapes."""
    total = hashlib.sha256(said.encode())
    for name, tensor in sorted(named.items()):
        total.update(f"\0{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        total.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
