"""One process among those that share an epoch: its place, and what it sums up or exchanges with the others."""

import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TypeVar, cast

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import AutocastKwargs, InitProcessGroupKwargs
from torch import Tensor
from torch.distributed.tensor import DTensor

from tasks.gdsd.config.compute import ComputeConfig
from tasks.gdsd.distill.machines import HEAR_SECONDS

BUCKET_BYTES = 2**26  # gradients that travel at once: few messages, and little memory beside the gradients

Value = TypeVar("Value")


def accelerator(device: torch.device, compute: ComputeConfig) -> Accelerator:
    """Returns accelerate's view of this process, among others where it was launched with them."""
    # accelerate keeps one precision per process, but the epochs of a comparison may differ in it.
    AcceleratorState._reset_state()
    precision = "bf16" if compute.precision == "bfloat16" else "no"
    # A pass uses each weight once, so copies of all in half precision would be kept for nothing.
    uncached = AutocastKwargs(cache_enabled=False)
    # The others wait while the first one stores an epoch's state. A machine that fails ends them all before that.
    patient = InitProcessGroupKwargs(timeout=timedelta(seconds=HEAR_SECONDS))
    return Accelerator(cpu=device.type == "cpu", mixed_precision=precision, kwargs_handlers=[uncached, patient])


def place() -> tuple[int, int]:
    """Returns this process's number, from 0, and how many share the work."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def add_up(numbers: Sequence[float], accelerator: Accelerator) -> list[float]:
    """Sums numbers over the processes, in float64; all processes get the same."""
    if accelerator.num_processes == 1:
        return list(numbers)
    mine = torch.tensor(numbers, dtype=torch.float64, device=accelerator.device)
    total: list[float] = accelerator.reduce(mine, "sum").tolist()
    return total


def gather(value: Value, accelerator: Accelerator) -> list[Value]:
    """Returns every process's value, in all processes."""
    if accelerator.num_processes == 1:
        return [value]
    values: list[Value | None] = [None] * accelerator.num_processes
    torch.distributed.all_gather_object(values, value)
    return cast(list[Value], values)


def add_up_gradients(
    parameters: Sequence[torch.nn.Parameter], present: Sequence[bool], accelerator: Accelerator
) -> None:
    """Sums gradients over the processes in place; all processes get the same.

    Args:
        present: whether any process has a gradient of each parameter; where none has, there is none afterwards.
    """
    if accelerator.num_processes == 1:
        return
    gradients: list[Tensor] = []
    for parameter, anywhere in zip(parameters, present, strict=True):
        if anywhere:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if not isinstance(parameter.grad, DTensor):  # the gradients of spread weights are sums already
                gradients.append(parameter.grad)
    for bucket in _buckets(gradients):
        total = accelerator.reduce(torch.cat([gradient.flatten() for gradient in bucket]), "sum")
        for gradient, summed in zip(bucket, total.split([gradient.numel() for gradient in bucket]), strict=True):
            gradient.copy_(summed.view_as(gradient))


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Puts tensors of one dtype together, in order, up to BUCKET_BYTES."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and (tensor.dtype != bucket[0].dtype or sum(t.nbytes for t in bucket) + tensor.nbytes > BUCKET_BYTES):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
