"""A trained policy and ways to damage its folder, for the tests of checkpoints."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tasks.gdsd.denoiser import checkpoint
from tasks.gdsd.denoiser.checkpoint import PolicyState
from tasks.gdsd.denoiser.checkpoint_record import CheckpointRecord
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.files import SUMS

CPU = torch.device("cpu")


def trained(denoiser: Denoiser, steps: int = 2) -> PolicyState:
    """A policy after a few updates on a made-up loss, with its optimizer's state."""
    optimizer = torch.optim.AdamW([parameter for _, parameter in denoiser.trainable()], 1e-2)
    ids = torch.tensor([denoiser.encode("12.4=")])
    for _ in range(steps):
        optimizer.zero_grad()
        denoiser.head().logits(denoiser(ids)).square().sum().backward()
        optimizer.step()
    slots = {
        f"{name}.{slot}": optimizer.state[parameter][slot]
        for name, parameter in denoiser.trainable()
        for slot in ("exp_avg", "exp_avg_sq", "step")
    }
    record = CheckpointRecord(
        family="tiny",
        round=3,
        updates=steps,
        skipped_in_a_row=1,
        adapter=denoiser.has_adapter,
        parent="ab" * 32,
        made_with=checkpoint.versions(),
    )
    return PolicyState(denoiser, record, slots)


def unseal(path: Path) -> None:
    """Takes away the digests by which any change of a file would be found before it is read."""
    for folder in (path.parent, path.parent.parent):  # an adapter lies in a folder of its own
        (folder / SUMS).unlink(missing_ok=True)


def edit_json(path: Path, **values: object) -> None:
    unseal(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def edit_tensors(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    unseal(path)
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def damage(path: Path, kind: str) -> None:
    """Damages a file, and no digests are there: "missing", "truncated", "empty" or "garbage"."""
    unseal(path)
    content = path.read_bytes()
    if kind == "missing":
        path.unlink()
    else:
        path.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "garbage": b"\xff\0no" * 99}[kind])
