"""Collects the optimizer's moments and the trained weights by name, whole, however they are spread over processes.

Where the policy is an average of the trained weights over the rounds, those of the last one, the *student's*, are kept
beside the moments.
"""

import torch
from torch import Tensor

from tasks.gdsd.denoiser import checkpoint
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.distill import fsdp

SLOTS = ("exp_avg", "exp_avg_sq", "step")
STUDENT = checkpoint.STUDENT


def take_student(denoiser: Denoiser, moments: dict[str, Tensor]) -> dict[str, Tensor]:
    """Moves the student's weights out of the moments; there are none before the first update, or without an average."""
    names = [name for name, _ in denoiser.trainable() if f"{name}.{STUDENT}" in moments]
    return {name: moments.pop(f"{name}.{STUDENT}") for name in names}


def restore(optimizer: torch.optim.AdamW, denoiser: Denoiser, moments: dict[str, Tensor]) -> None:
    """Moves moments into a fresh optimizer, one by one, so that the mapping no longer has them."""
    if not moments:
        return
    for name, parameter in denoiser.trainable():
        optimizer.state[parameter] = {
            slot: fsdp.spread_like(moments.pop(f"{name}.{slot}"), parameter) for slot in SLOTS
        }


def collect(optimizer: torch.optim.AdamW, denoiser: Denoiser, first: bool) -> dict[str, Tensor]:
    """Returns the optimizer's moments under the names of their parameters; empty before the first update.

    Where they are spread, they are put together in the machine's memory, and only in the first process.
    """
    return _whole(
        {
            f"{name}.{slot}": tensor
            for name, parameter in denoiser.trainable()
            for slot, tensor in optimizer.state.get(parameter, {}).items()
        },
        first,
    )


def collect_weights(denoiser: Denoiser, first: bool, copied: bool = False) -> dict[str, Tensor]:
    """Returns what is trained, put together like the moments; on demand, copies that later changes leave alone."""
    weights = {name: parameter.detach() for name, parameter in denoiser.trainable()}
    return _whole({name: weight.clone() for name, weight in weights.items()} if copied else weights, first)


@torch.no_grad()
def restore_weights(denoiser: Denoiser, weights: dict[str, Tensor]) -> None:
    """Copies trained weights into a denoiser, wherever its parts are."""
    for name, parameter in denoiser.trainable():
        parameter.copy_(fsdp.spread_like(weights[name], parameter))


def _whole(tensors: dict[str, Tensor], first: bool) -> dict[str, Tensor]:
    found, spread_out = {}, False
    for name, tensor in tensors.items():
        whole = fsdp.gathered(tensor)  # with the help of every process
        spread_out |= whole is not tensor
        found[name] = tensor if whole is tensor else whole.cpu() if first else tensor
    return found if first or not spread_out else {}
