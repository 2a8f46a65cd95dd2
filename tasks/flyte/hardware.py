"""Turns the machines that a configuration names, stage by stage, into what Flyte asks a cluster for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar, cast

from flytekit import Resources
from flytekit.extras import accelerators
from flytekit.extras.accelerators import GPUAccelerator

from images import CPU, GPU
from images.nodes import Nodes
from tasks.gdsd.config.hardware import HostConfig, Kind, MachineConfig


@dataclass(frozen=True)
class Share:
    """What goes with one GPU, or with one process on a CPU: (request, limit)."""

    cpu: tuple[int, int]
    gib: tuple[int, int]  # of main memory
    accelerator: GPUAccelerator | None = None


# Fits the smallest machine with one such GPU that the public clouds rent out, beside what Kubernetes keeps for itself.
SHARES: Mapping[Kind, Share] = {
    "cpu": Share((2, 4), (4, 8)),
    "gpu": Share((4, 8), (16, 32)),
    "t4": Share((3, 4), (12, 14), accelerators.T4),
    "l4": Share((3, 4), (12, 14), accelerators.L4),
    "a10g": Share((3, 4), (12, 14), accelerators.A10G),
    "l40s": Share((3, 4), (24, 28), accelerators.L40S),
    "v100": Share((6, 8), (48, 56), accelerators.V100),
    "a100": Share((8, 12), (64, 72), accelerators.A100),
    "a100-80gb": Share((8, 12), (128, 144), accelerators.A100_80GB),
    "h100": Share((12, 16), (160, 192), accelerators.H100),
    "h200": Share((12, 16), (192, 224), accelerators.H200),
}

Result = TypeVar("Result")


class _Node(Protocol):
    """What calling a task gives inside a dynamic task, whatever its annotation says."""

    def with_overrides(
        self,
        *,
        requests: Resources,
        limits: Resources,
        accelerator: GPUAccelerator | None,
        shared_memory: bool | None,
        interruptible: bool,
        container_image: str,
        task_config: Nodes | None,
    ) -> object: ...


def on(machine: HostConfig, result: Result, processes: int = 1, nodes: int = 1) -> Result:
    """Puts a task that a dynamic task calls on a machine of the configuration; without effect in a local run.

    Args:
        machine: what the configuration names for it.
        result: what calling the task gave.
        processes: how many share the task on a machine; each needs a GPU, where the machine has any.
        nodes: how many such machines share the task, which then has `Nodes` as its `task_config`.
    """
    kind = machine.kind if isinstance(machine, MachineConfig) else "cpu"
    share = SHARES[kind]
    gpus = None if kind == "cpu" else str(processes)
    requests, limits = (
        Resources(
            cpu=str(machine.cpu or processes * share.cpu[bound]),
            mem=machine.memory or f"{processes * share.gib[bound]}Gi",
            gpu=gpus,
        )
        for bound in (0, 1)
    )
    cast(_Node, result).with_overrides(
        requests=requests,
        limits=limits,
        accelerator=share.accelerator,
        # Processes exchange gradients through it, and 64 MB, a container's own, is too little for that.
        shared_memory=True if processes > 1 else None,
        interruptible=machine.spot,
        container_image=CPU.image if kind == "cpu" else GPU.image,
        task_config=Nodes(nodes, processes) if nodes > 1 else None,
    )
    return result
