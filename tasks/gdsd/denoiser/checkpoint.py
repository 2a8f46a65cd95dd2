"""A policy at rest: a folder with the denoiser's standard files, the optimizer's state and where it came from.

Where only an adapter is trained, a pinned model is not copied: `base.json` beside the adapter has the pin. `SHA256SUMS`
has the digests of all files. Older folders have none, and nothing is compared there.
"""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tasks.gdsd.config.model_source import OPTIMIZER
from tasks.gdsd.denoiser.checkpoint_record import RECORD, CheckpointRecord, read_record, require_whole
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.denoiser.load import load_folder
from tasks.gdsd.errors import CheckpointError
from tasks.gdsd.files import SUMS, digest, seal

STUDENT = "student"  # the slot of the weights that are trained, where the policy is an average of them


class PolicyState:
    """A loaded checkpoint."""

    def __init__(self, denoiser: Denoiser, record: CheckpointRecord, optimizer: dict[str, Tensor]):
        self.denoiser = denoiser
        self.record = record
        self.optimizer = optimizer  # "<trainable parameter>.<slot>" -> tensor; empty before the first update, or unread


def save(folder: Path, state: PolicyState) -> Path:
    """Writes a checkpoint beside its final place and renames it, so that a reader never sees half of one."""
    with _written_at_once(folder) as partial:
        state.denoiser.save(partial)
        save_file({name: tensor.contiguous() for name, tensor in state.optimizer.items()}, partial / OPTIMIZER)
        (partial / RECORD).write_text(state.record.model_dump_json(indent=2) + "\n")
    return folder


def rebase(source: Path, folder: Path) -> Path:
    """Writes a checkpoint's policy as the base of another run: the same weights, without its rounds and moments.

    Raises:
        CheckpointError: the source is not a checkpoint, or a damaged one.
    """
    record = read_record(source)
    require_whole(source, moments=False)
    base = record.model_copy(update={"round": 0, "updates": 0, "skipped_in_a_row": 0, "parent": digest(source)})
    with _written_at_once(folder) as partial:
        ours = shutil.ignore_patterns(RECORD, OPTIMIZER, SUMS)
        shutil.copytree(source, partial, ignore=ours, copy_function=shutil.copyfile, dirs_exist_ok=True)
        save_file({}, partial / OPTIMIZER)
        (partial / RECORD).write_text(base.model_dump_json(indent=2) + "\n")
    return folder


@contextmanager
def _written_at_once(folder: Path) -> Iterator[Path]:
    """Gives an empty folder that is sealed and takes its final place when it is full, and vanishes if that fails."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Not mkdtemp, which would keep other users of a shared disk from reading the result.
    partial = folder.parent / f".{folder.name}-{uuid.uuid4().hex}"
    partial.mkdir()
    try:
        yield partial
        seal(partial)
        os.rename(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def load(folder: Path, device: torch.device, *, moments: bool = True, dtype: torch.dtype | None = None) -> PolicyState:
    """Loads a checkpoint.

    Args:
        moments: whether the optimizer's are wanted, which only training is in need of. They stay in their file, mapped,
            until they are read.
        dtype: precision of the weights, see `load_folder`.

    Raises:
        CheckpointError: a file is missing, damaged, or does not fit the others.
    """
    record = read_record(folder)
    require_whole(folder, moments)
    denoiser = load_folder(folder, record.family, device, dtype)
    optimizer = load_moments(folder) if moments else {}
    if denoiser.has_adapter != record.adapter:
        what = "an" if denoiser.has_adapter else "no"
        raise CheckpointError(f"{folder} has {what} adapter, but {RECORD} says that adapter is {record.adapter}")
    shapes = {name: parameter.shape for name, parameter in denoiser.trainable()}
    averaged = any(name.endswith(f".{STUDENT}") for name in optimizer)
    expected = {
        f"{name}.{slot}": size for name, shape in shapes.items() for slot, size in _slots(shape, averaged).items()
    }
    found = {name: tensor.shape for name, tensor in optimizer.items()}
    if optimizer and found != expected:
        wrong = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        raise CheckpointError(f"{folder / OPTIMIZER} does not fit the weights: {len(wrong)} entries, first {wrong[:3]}")
    return PolicyState(denoiser, record, optimizer)


def load_moments(folder: Path) -> dict[str, Tensor]:
    """Maps what training keeps of a checkpoint's policy: "<trainable parameter>.<slot>" -> tensor.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        return load_file(folder / OPTIMIZER)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{folder / OPTIMIZER} cannot be read: {error}") from error


def _slots(shape: torch.Size, averaged: bool) -> dict[str, torch.Size]:
    """What training keeps for a parameter: AdamW's moments, and what the policy is an average of."""
    moments = {"exp_avg": shape, "exp_avg_sq": shape, "step": torch.Size()}
    return moments | {STUDENT: shape} if averaged else moments


def versions() -> dict[str, str]:
    """Returns the versions that a policy's weights depend on, without local build labels."""
    return {name: _version(name) for name in ("peft", "torch", "transformers")}


@cache
def _version(name: str) -> str:
    from importlib.metadata import version

    return version(name).split("+")[0]


def base_state(denoiser: Denoiser, parent: str | None = None) -> PolicyState:
    """Returns the state of a policy that a run begins with.

    Args:
        parent: pin of the policy whose adapter goes on, if one does.
    """
    record = CheckpointRecord(
        family=denoiser.family.name,
        round=0,
        updates=0,
        skipped_in_a_row=0,
        adapter=denoiser.has_adapter,
        parent=parent,
        made_with=versions(),
    )
    return PolicyState(denoiser, record, {})
