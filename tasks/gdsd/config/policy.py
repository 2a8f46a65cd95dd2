"""The policy that training starts from: a tiny one, or a published one, with or without an adapter."""

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from tasks.gdsd.config.model_source import ModelSource
from tasks.gdsd.domains import DomainChoice, make
from tasks.gdsd.domains.alphabet import ALPHABET, lacking
from tasks.gdsd.strict import Config, Count, distinct

AdapterTarget = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class TinyModelConfig(Config):
    """Shape of the tiny family's transformer."""

    hidden_size: int = Field(64, ge=8, le=1024, description="D: width of the hidden states")
    intermediate_size: int = Field(64, ge=8, le=4096, description="width inside the feed-forward maps")
    layers: int = Field(3, ge=1, le=48, description="transformer blocks")
    heads: int = Field(4, ge=1, le=64, description="attention heads of a block")
    rope_theta: float = Field(
        100.0,
        gt=1,
        le=1e7,
        description="base of the rotary wavelengths; short sequences learn several times faster with a small one",
    )
    init_std: float = Field(0.1, gt=0, le=1, description="standard deviation of the initial weight matrices")
    alphabet: Literal["plain", "from_data"] = Field(
        "plain",
        description="characters that the policy can read and write, a token each. plain: digits, lower-case letters, "
        "the space and +-*/()=.,:|; from_data: those of the run's prompts and references",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.hidden_size % (2 * self.heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of 2 * heads = {2 * self.heads}, "
                "which rotary attention needs; change either"
            )
        return self


class WarmStartConfig(Config):
    """Masked denoising of training problems' answers; short enough to leave the policy weak."""

    steps: int = Field(70, ge=0, le=100_000, description="updates; 0 leaves the weights as they are drawn")
    batch_size: Count = Field(256, description="answers per step")
    learning_rate: float = Field(3e-3, gt=0, le=1, description="of AdamW, after its rise")


class AdapterConfig(Config):
    """A LoRA adapter (arXiv 2106.09685): a target's weight W counts as W + alpha / rank * B A, and W stays as it is."""

    rank: int = Field(16, ge=1, le=1024, description="rows of A and columns of B")
    alpha: float = Field(32.0, gt=0, le=65_536, description="alpha / rank scales what the adapter adds")
    targets: list[AdapterTarget] = Field(  # flytekit has no tuples
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        min_length=1,
        description="the linear maps of each transformer block that are adapted",
    )
    base_bits: Literal[4] | None = Field(
        None,
        description="4 reads the blocks' weights in 4 bits (NF4): a quarter of the memory, at some loss, and the extra "
        "`quantization` has to be installed; null as is",
    )

    _distinct = field_validator("targets")(distinct)


class PolicyConfig(Config):
    """The base policy that training starts from: a tiny one, made and warm-started here, or a published model.

    A published model's weights are bfloat16 on a GPU and float32 on the CPU. A model may also be an earlier run's
    policy, which is then trained further.
    """

    seed: int = Field(0, description="draws a tiny model's weights and warm start, and the adapter's weights")
    tiny: TinyModelConfig | None = Field(TinyModelConfig(), description="null where there is a `model`")
    warm_start: WarmStartConfig | None = Field(WarmStartConfig(), description="null where there is a `model`")
    model: ModelSource | None = Field(
        None, description="a published model of a known family or an earlier run's policy, from the hub or a folder"
    )
    stored_adapter: Literal["continue", "merge"] | None = Field(
        None,
        description="where the model has an adapter: `continue` trains it further, and `adapter` has to be what it is; "
        "`merge` makes it part of the weights, of which all, or a fresh `adapter`, are trained",
    )
    adapter: AdapterConfig | None = Field(None, description="what distillation trains instead of all weights")

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: object) -> object:
        if isinstance(values, dict) and values.get("model") is not None:
            return {"tiny": None, "warm_start": None} | values
        return values

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.model is not None and (self.tiny is not None or self.warm_start is not None):
            raise ValueError(
                "a published model, or an earlier run's policy, has its own shape and weights, so tiny and warm_start "
                "mean nothing; leave them out"
            )
        if self.model is None and (self.tiny is None or self.warm_start is None):
            raise ValueError(
                "there is neither a model nor both of tiny and warm_start; name a model, or leave them out"
            )
        bits = None if self.adapter is None else self.adapter.base_bits
        if self.model is None and bits is not None:
            raise ValueError(
                "adapter.base_bits is for published models, and the base is a tiny one, made here; leave it out"
            )
        if self.model is None and self.stored_adapter is not None:
            raise ValueError(
                f"stored_adapter {self.stored_adapter!r} is for a model with an adapter, and there is none; name a "
                "`model`, or leave it out"
            )
        if self.stored_adapter == "continue" and self.adapter is None:
            raise ValueError(
                "stored_adapter 'continue' trains the stored adapter, and `adapter` is left out, so all weights would "
                "be trained; set `adapter` as it is in the configuration of the run that made it, or use 'merge'"
            )
        if self.stored_adapter == "merge" and bits is not None:
            raise ValueError(
                "stored_adapter 'merge' makes new weights, which are kept as they are, and not in adapter.base_bits 4; "
                "leave base_bits out, or use 'continue'"
            )
        return self


def check_readable(policy: PolicyConfig, domains: Mapping[str, DomainChoice]) -> None:
    """Refuses domains whose example a tiny policy of plain characters cannot read or answer."""
    for where, choice in domains.items() if policy.tiny is not None and policy.tiny.alphabet == "plain" else ():
        domain = make(choice)
        for what, text in {"prompt": domain.phrase(domain.example.problem), "answer": domain.example.text}.items():
            if (said := lacking(text, ALPHABET)) is not None:
                raise ValueError(
                    f"{where}.domain {choice.name}: the {what} of its example has {said}, which the tiny policy's "
                    "alphabet lacks; set policy.tiny.alphabet to from_data, or name a published model by policy.model"
                )


def check_warm_start(policy: PolicyConfig, choice: DomainChoice) -> None:
    """Refuses to teach a tiny policy references that are no answers."""
    if policy.warm_start is not None and policy.warm_start.steps and not make(choice).reference_is_answer:
        raise ValueError(
            f"policy.warm_start teaches the references of training problems, and those of {choice.name} are no "
            "answers; set policy.warm_start.steps to 0"
        )
