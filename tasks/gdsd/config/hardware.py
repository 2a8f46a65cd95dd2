"""Which machine each stage's tasks get on a cluster, by name. A run on one's own machine takes what is there."""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, Field

from tasks.gdsd.strict import Config

Kind = Literal["cpu", "gpu", "t4", "l4", "a10g", "l40s", "v100", "a100", "a100-80gb", "h100", "h200"]

# GPUs of the largest machine that the public clouds rent out.
MOST_GPUS: Mapping[Kind, int] = {
    "gpu": 16,
    "t4": 8,
    "l4": 8,
    "a10g": 8,
    "l40s": 8,
    "v100": 16,
    "a100": 16,
    "a100-80gb": 8,
    "h100": 8,
    "h200": 8,
}


class HostConfig(Config):
    """A machine without a GPU."""

    cpu: int | None = Field(
        None, ge=1, le=1024, description="cores that a task is given and held to; null: what goes with the kind"
    )
    memory: str | None = Field(
        None,
        pattern="^[1-9][0-9]{0,5}[MGT]i$",
        description="main memory that a task is given and held to, such as 64Gi; null: what goes with the kind",
    )
    spot: bool = Field(True, description="may be a machine that is taken away at any time; the task then starts again")
    price: float | None = Field(
        None,
        ge=0,
        description="of an hour of one of its GPUs with what goes with it, or of the machine where it has none, in any "
        "currency; the report then says what the run's work cost",
    )


class MachineConfig(HostConfig):
    """A machine that computes with a policy."""

    kind: Kind = Field(
        "cpu", description="cpu, a GPU by its name, or gpu for whichever there is; for a published model gpu"
    )


class HardwareConfig(Config):
    """The machines of an evaluation, stage by stage. A change recomputes nothing that is cached."""

    prompts: HostConfig = Field(HostConfig(), description="makes or reads problems")
    scoring: HostConfig = Field(HostConfig(), description="verifies completions")
    evaluation: MachineConfig = Field(MachineConfig(), description="answers problems; each shard has one of its own")


class TrainHardwareConfig(HardwareConfig):
    """The machines of a training run, stage by stage. A change recomputes nothing that is cached."""

    policy: MachineConfig = Field(MachineConfig(), description="makes the base policy")
    rollout: MachineConfig = Field(MachineConfig(), description="generates completions; each shard has one of its own")
    distill: MachineConfig = Field(
        MachineConfig(),
        description="trains, on each of distill.compute.nodes machines; each of distill.compute.processes has a GPU, "
        "and what goes with it",
    )

    def check_processes(self, processes: int, where: str) -> None:
        """Refuses an epoch that wants more GPUs of a machine than it has.

        Raises:
            ValueError: there are too many processes for the kind.
        """
        kind = self.distill.kind
        if processes > MOST_GPUS.get(kind, processes):
            raise ValueError(
                f"{where}.processes {processes} exceeds the {MOST_GPUS[kind]} GPUs of the largest machine with "
                f"hardware.distill.kind {kind!r}, and each process needs one; lower one, change the other, or have "
                f"more machines share the epoch, by {where}.nodes"
            )


def give_gpus(values: object) -> object:
    """Adds to an unread configuration that a published model computes on a GPU, where it names no other kind."""
    if not isinstance(values, dict):
        return values
    policy, hardware = (
        value.model_dump(exclude_unset=True) if isinstance(value, BaseModel) else value
        for value in (values.get("policy"), values.get("hardware", {}))
    )
    if not isinstance(policy, dict) or policy.get("model") is None or not isinstance(hardware, dict):
        return values
    roles = {role: hardware.get(role, {}) for role in ("policy", "rollout", "distill", "evaluation")}
    given = {role: {"kind": "gpu"} | machine for role, machine in roles.items() if isinstance(machine, dict)}
    return values | {"hardware": hardware | given}
