"""How an epoch of distillation is computed: on how many devices, in which precision and in what pieces."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tasks.gdsd.strict import Config


class ComputeConfig(Config):
    """What an epoch takes of the machine. All but `precision` changes results by rounding at most."""

    processes: int = Field(
        1, ge=1, le=64, description="processes of one machine that share an epoch, each with a GPU of its own if any"
    )
    nodes: int = Field(
        1,
        ge=1,
        le=64,
        description="machines that share an epoch, with that many processes each; on a cluster the Kubeflow training "
        "operator starts them, a local run has them all on this machine",
    )
    sharding: Literal["none", "fsdp"] = Field(
        "none",
        description="fsdp spreads the blocks' weights, gradients and moments over the processes (FSDP2), for a model "
        "that trains on no single GPU; slower",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="of the products inside the denoiser with what is trained, which is float32 itself, as moments, "
        "scores and losses are. A published model that is frozen under an adapter is bfloat16 on a GPU in either case",
    )
    gradient_checkpointing: bool = Field(
        False, description="keep a block's input instead of all it computes: far less memory, a third more time"
    )
    micro_batch_tokens: int = Field(
        8448,
        ge=1,
        le=2**30,
        description="tokens of prompts and completions per forward, in all views; halved where memory does not "
        "suffice. At least one completion, or group where an objective compares within it",
    )
    save_minutes: float = Field(
        10,
        ge=0,
        le=1440,
        description="on a cluster, or with rounds_per_task above 1, minutes between two states of an unfinished epoch "
        "(12 bytes per trained weight), from the last of which its next attempt goes on; 0: one after each update",
    )

    @property
    def everywhere(self) -> int:
        """The processes of all machines."""
        return self.nodes * self.processes

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.sharding == "fsdp" and self.everywhere == 1:
            raise ValueError("sharding 'fsdp' spreads weights over processes, and there is 1; raise processes or nodes")
        return self
