"""A distillation epoch from files to files, as one process or several of them do it."""

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch

from tasks.gdsd import tables
from tasks.gdsd.config.compute import ComputeConfig
from tasks.gdsd.config.model_source import ADAPTER
from tasks.gdsd.config.train import DistillConfig
from tasks.gdsd.denoiser import checkpoint, checkpoint_record, devices
from tasks.gdsd.denoiser.checkpoint import PolicyState
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.distill import loop, processes, resume
from tasks.gdsd.distill.launcher import launch
from tasks.gdsd.distill.machines import Machines
from tasks.gdsd.distill.memory import OutOfMemoryError, SharedShortageError
from tasks.gdsd.distill.resume import Keeper
from tasks.gdsd.files import digest
from tasks.gdsd.records import EpochStats

logger = logging.getLogger(__name__)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Epoch:
    """What an epoch reads, and where it puts what comes of it."""

    policy: Path
    base: Path | None  # where the objective needs a reference that the policy with its adapter off is not
    rewarded: Path
    config: DistillConfig
    group_size: int
    round_index: int
    seed: int
    trained: Path  # the new checkpoint, not there yet
    evidence: Path  # what is left of an epoch whose updates were not finite
    found: Path | None = None  # the state that an earlier attempt at this epoch has left
    send: Callable[[Path], None] | None = None  # puts a state where the next attempt finds it; picklable
    speak: Callable[[], None] | None = None  # shows the log lines of a process that was started for this; picklable


def train(epoch: Epoch, machines: Machines | None = None) -> EpochStats:
    """Trains a policy on a round's rewarded completions, in as many processes as configured, and saves it.

    Without `machines`, all processes are on this one. Of several, the one with the first process saves.

    Raises:
        GdsdError: see `loop.distill`.
        Exception: see `launcher.launch`.
    """

    def share(config: DistillConfig) -> EpochStats:
        compute = config.compute
        number = compute.everywhere if machines is None else compute.processes
        return launch(_train, replace(epoch, config=config), number, machines)

    return fitted(epoch.config, share)


def fitted(config: DistillConfig, work: Callable[[DistillConfig], Result]) -> Result:
    """Lets processes work, and again with micro-batches of half the size where memory runs out.

    Processes among which weights are spread cannot take smaller ones each on its own, so all are started again.

    Raises:
        OutOfMemoryError: the smallest do not fit.
        Exception: whatever the work raises.
    """
    while True:
        compute = config.compute
        try:
            return work(config)
        except SharedShortageError as error:
            if error.smallest:
                raise OutOfMemoryError(str(error)) from error
            tokens = max(1, min(compute.micro_batch_tokens, error.tokens) // 2)
            logger.warning(
                "%d tokens do not fit the memory; starting again with micro-batches of %d", error.tokens, tokens
            )
        smaller = compute.model_copy(update={"micro_batch_tokens": tokens})
        config = config.model_copy(update={"compute": smaller})


def _train(epoch: Epoch) -> EpochStats:
    """What each process does; only the first one writes."""
    number, count = processes.place()
    if epoch.speak is not None and count > 1:
        epoch.speak()
    parent = digest(epoch.policy)
    state, base = load_both(epoch.policy, epoch.base, epoch.config.compute)
    trained, stats = loop.distill(
        state,
        base,
        tables.read(epoch.rewarded, tables.REWARDED),
        epoch.config,
        round_index=epoch.round_index,
        group_size=epoch.group_size,
        seed=epoch.seed,
        parent=parent,
        evidence=epoch.evidence,
        keeper=_keeper(epoch, parent),
    )
    if number == 0:
        checkpoint.save(epoch.trained, trained)
    return stats


def load_both(policy: Path, base: Path | None, compute: ComputeConfig) -> tuple[PolicyState, PolicyState | None]:
    """Loads a policy to be trained, and the base where that is another model.

    Args:
        base: where the objective needs a reference that the policy with its adapter off is not.

    Raises:
        CheckpointError: see `checkpoint.load`.
    """
    device = devices.device()
    state = load(policy, device)
    if base is None:
        return state, None
    if not state.denoiser.has_adapter:
        return state, _reference(base, device, compute)
    checkpoint_record.require_whole(base, moments=False)
    state.denoiser.refer_to(base / ADAPTER)
    return state, None


def load(folder: Path, device: torch.device) -> PolicyState:
    """Loads a policy to be trained.

    Raises:
        CheckpointError: see `checkpoint.load`.
    """
    # Without an adapter the weights themselves are trained. Most updates are too small for half precision: at a rate of
    # 3e-6, 3 of 100 weights would move.
    whole = not checkpoint_record.read_record(folder).adapter
    return checkpoint.load(folder, device, dtype=torch.float32 if whole else None)


def _keeper(epoch: Epoch, parent: str) -> Keeper | None:
    """Returns what keeps the states of an epoch, under the name of all that the epoch follows from."""
    if epoch.send is None:
        return None
    inputs = {
        "policy": parent,
        "base": None if epoch.base is None else digest(epoch.base / checkpoint_record.RECORD),
        "rewarded": digest(epoch.rewarded),
        "config": epoch.config.model_dump(mode="json"),
        "group_size": epoch.group_size,
        "round": epoch.round_index,
        "seed": epoch.seed,
        "made_with": checkpoint.versions(),
    }
    name = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    file = epoch.trained.with_name(resume.FILE)
    return Keeper(name, epoch.config.compute.save_minutes, file, epoch.found, epoch.send)


def _reference(folder: Path, device: torch.device, compute: ComputeConfig) -> PolicyState:
    """Loads the base policy to compare a policy with whose own weights are trained."""
    base = checkpoint.load(folder, device, moments=False, dtype=torch.float32)
    base.denoiser.requires_grad_(False)
    if compute.precision == "bfloat16":
        round_maps(base.denoiser)
    return base


def round_maps(denoiser: Denoiser) -> None:
    """Keeps the maps of the blocks in half precision, to which autocast would round them each time.

    All else stays float32 as in the policy, so that the two agree bit for bit before the first update.
    """
    for module in denoiser.network.model.layers.modules():
        if isinstance(module, torch.nn.Linear):
            module.to(torch.bfloat16)
