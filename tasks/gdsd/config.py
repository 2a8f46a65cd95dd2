"""What a run is made of: one pydantic model per stage.

Every field changes a result, a cost or a record, within a stated range; unknown keys, wrong types and impossible
combinations are refused with the dotted path, the value, what is allowed and the nearest name.
"""

import hashlib
from typing import Literal, Self

from pydantic import Field, model_validator

from tasks.gdsd.config_base import Config, Count
from tasks.gdsd.errors import ConfigError
from tasks.gdsd.objective_config import GdsdConfig, Objective

AdapterTarget = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class PromptFile(Config):
    """A prompt file, pinned by its content so that an edited file is never answered from the cache."""

    path: str = Field(min_length=1, description="Parquet, JSON lines or CSV; a path or any fsspec URI")
    sha256: str = Field(
        default_factory=lambda data: _pin(data["path"]),
        pattern="^[0-9a-f]{64}$",
        description="SHA-256 of the file; read from the file when the configuration is loaded, if not given",
    )


def _pin(path: str) -> str:
    import fsspec

    try:
        with fsspec.open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(
            f"prompt file {path!r} cannot be read to pin its content ({error}); "
            "correct the path, or give its sha256 beside it if only the cluster can read it"
        ) from None


class PromptConfig(Config):
    """The problems: generated from a seed, or read from files."""

    domain: Literal["sudoku"] = "sudoku"
    seed: int = Field(0, description="draws the generated puzzles")
    train_size: Count = Field(8192, description="generated training problems; rounds cycle through them")
    validation_size: Count = Field(256, description="generated problems that choose the best round")
    test_size: Count = Field(512, description="generated problems of the final comparison; nothing is chosen on them")
    min_empty: int = Field(3, ge=1, le=12, description="fewest empty cells of a generated puzzle")
    max_empty: int = Field(5, ge=1, le=12, description="most empty cells; 12 is the most with one solution")
    train_file: PromptFile | None = Field(None, description="training problems from a file instead")
    validation_file: PromptFile | None = Field(None, description="validation problems from a file instead")
    test_file: PromptFile | None = Field(None, description="test problems from a file instead")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_empty > self.max_empty:
            raise ValueError(
                f"min_empty {self.min_empty} exceeds max_empty {self.max_empty}; lower it or raise max_empty"
            )
        return self


class TinyModelConfig(Config):
    """Shape of the tiny family's transformer."""

    hidden_size: int = Field(64, ge=8, le=1024)
    intermediate_size: int = Field(128, ge=8, le=4096)
    layers: int = Field(3, ge=1, le=48)
    heads: int = Field(4, ge=1, le=64)
    rope_theta: float = Field(
        100.0,
        gt=1,
        le=1e7,
        description="base of the rotary wavelengths; short sequences learn several times faster with a small one",
    )
    init_std: float = Field(0.1, gt=0, le=1, description="standard deviation of the initial weight matrices")

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

    steps: int = Field(60, ge=0, le=100_000)
    batch_size: Count = Field(256, description="answers per step")
    learning_rate: float = Field(3e-3, gt=0, le=1)


class AdapterConfig(Config):
    """A LoRA adapter (arXiv 2106.09685): a target's weight W counts as W + alpha / rank * B A, and W stays as it is."""

    rank: int = Field(16, ge=1, le=1024, description="rows of A and columns of B")
    alpha: float = Field(32.0, gt=0, le=65_536, description="alpha / rank scales what the adapter adds")
    targets: list[AdapterTarget] = Field(  # flytekit has no tuples
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        min_length=1,
        description="the linear maps of each transformer block that are adapted",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        twice = sorted({name for name in self.targets if self.targets.count(name) > 1})
        if twice:
            raise ValueError(f"targets has {', '.join(twice)} more than once, but a map has one adapter; name it once")
        return self


class PolicyConfig(Config):
    """The base policy that training starts from."""

    seed: int = Field(0, description="draws the initial weights, the warm start's batches and the adapter's weights")
    tiny: TinyModelConfig = TinyModelConfig()
    warm_start: WarmStartConfig = WarmStartConfig()
    adapter: AdapterConfig | None = Field(None, description="what distillation trains instead of all weights")


class SamplerConfig(Config):
    """Block-wise low-confidence remasking (LLaDA, arXiv 2502.09992)."""

    length: int = Field(16, ge=1, le=4096, description="completion tokens")
    block_length: int = Field(16, ge=1, le=4096, description="tokens of a block; blocks are unmasked left to right")
    steps_per_block: int = Field(5, ge=1, le=4096, description="denoiser calls per block")
    temperature: float = Field(1.0, ge=0, le=10, description="0 takes the most likely token")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.length % self.block_length:
            nearest = max(1, round(self.length / self.block_length)) * self.block_length
            raise ValueError(
                f"length {self.length} is not a multiple of block_length {self.block_length}; "
                f"use length {nearest} or another block_length"
            )
        if self.steps_per_block > self.block_length:
            raise ValueError(
                f"steps_per_block {self.steps_per_block} exceeds block_length {self.block_length}, "
                f"but a step unmasks at least one token; use at most {self.block_length}"
            )
        return self


class RolloutConfig(Config):
    """What is generated in a round, and how the work is cut."""

    prompts_per_round: Count = 192
    group_size: int = Field(4, ge=2, le=1024, description="completions per prompt; a group of one has no baseline")
    shards: int = Field(1, ge=1, le=512, description="map-task items per round; changes tokens by rounding at most")
    batch_size: Count = Field(256, description="completions per denoiser call; changes tokens by rounding at most")
    sampler: SamplerConfig = SamplerConfig()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.shards > self.prompts_per_round:
            raise ValueError(
                f"shards {self.shards} exceeds prompts_per_round {self.prompts_per_round}, "
                f"which leaves empty shards; use at most {self.prompts_per_round}"
            )
        if self.sampler.temperature == 0:
            raise ValueError(
                "sampler.temperature 0 makes all completions of a group alike, which carries no signal; use more than 0"
            )
        return self


class RewardConfig(Config):
    """From verdicts to advantages."""

    scale_by_std: bool = Field(False, description="divide leave-one-out advantages by the group's standard deviation")


class DistillConfig(Config):
    """One distillation epoch: a few updates on a round's scored completions."""

    objective: Objective = GdsdConfig()
    inner_steps: int = Field(3, ge=1, le=1000, description="N: optimizer updates per round")
    micro_batch: Count = Field(128, description="completions per forward; changes results only by rounding")
    learning_rate: float = Field(1e-3, gt=0, le=1)
    warmup_steps: int = Field(10, ge=0, le=1_000_000, description="updates before the full learning rate")
    decay_after: int = Field(
        150, ge=1, le=1_000_000, description="updates after which the learning rate falls as 1 / sqrt(updates)"
    )
    weight_decay: float = Field(0.0, ge=0, le=1)
    adam_beta1: float = Field(0.95, ge=0, lt=1)
    adam_beta2: float = Field(0.99, ge=0, lt=1)
    max_grad_norm: float = Field(1.0, gt=0, le=1e6)
    max_skipped: int = Field(3, ge=1, le=1000, description="non-finite updates in a row after which the run stops")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if isinstance(self.objective, GdsdConfig) and self.inner_steps == 1:
            if self.objective.trust_region is not None:
                raise ValueError(
                    "objective.trust_region never acts in the first update of a round, and inner_steps is 1; "
                    "raise inner_steps, or set trust_region to null"
                )
            if self.objective.baseline == "group" and self.objective.reference_weight == 0:
                raise ValueError(
                    "objective.baseline 'group' is 'zero' in the first update of a round, where the mean residual of a "
                    "group is 0, and inner_steps is 1; raise inner_steps, or use baseline 'zero'"
                )
        return self


class EvaluationSamplerConfig(SamplerConfig):
    """The same sampler with the defaults of an evaluation: one token per step, and the most likely one."""

    steps_per_block: int = Field(16, ge=1, le=4096, description="denoiser calls per block")
    temperature: float = Field(0.0, ge=0, le=10, description="0 takes the most likely token")


class EvaluationConfig(Config):
    """The protocol under which base and trained policy are compared."""

    batch_size: Count = Field(512, description="completions per denoiser call; changes tokens by rounding at most")
    sampler: EvaluationSamplerConfig = EvaluationSamplerConfig()


class JudgeConfig(Config):
    """When the trained policy is promoted."""

    margin: float = Field(0.0, ge=0, le=1, description="what the interval of the solved difference must clear")
    confidence: float = Field(0.95, gt=0.5, lt=1)
    resamples: int = Field(10_000, ge=100, le=1_000_000, description="bootstrap resamples of the test problems")


class TrainConfig(Config):
    """A whole training run."""

    name: str = Field("tiny_sudoku", pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$", description="names the run in its report")
    seed: int = Field(0, description="draws rollouts, masks and the order of prompts")
    rounds: Count = Field(150, description="rounds of rollout, reward and distillation")
    validate_every: Count = Field(10, description="rounds between validations; the last round is always validated")
    prompts: PromptConfig = PromptConfig()
    policy: PolicyConfig = PolicyConfig()
    rollout: RolloutConfig = RolloutConfig()
    reward: RewardConfig = RewardConfig()
    distill: DistillConfig = DistillConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    judge: JudgeConfig = JudgeConfig()

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_supply(self.prompts, self.rollout)
        return self


class EvaluateConfig(Config):
    """What an evaluation of a given checkpoint needs."""

    seed: int = Field(0, description="draws the completions where the temperature is not 0")
    prompts: PromptConfig = PromptConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


def check_supply(prompts: PromptConfig, rollout: RolloutConfig) -> None:
    """Refuses a round that wants more different problems than will be generated."""
    if prompts.train_file is None and rollout.prompts_per_round > prompts.train_size:
        raise ValueError(
            f"rollout.prompts_per_round {rollout.prompts_per_round} exceeds prompts.train_size "
            f"{prompts.train_size}, but the problems of a round differ; lower one or raise the other"
        )
