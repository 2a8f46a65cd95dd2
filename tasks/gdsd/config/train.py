"""What a run is made of: one pydantic model per stage.

Every field changes a result, a cost or a record, within a stated range; unknown keys, wrong types and impossible
combinations are refused with the dotted path, the value, what is allowed and the nearest name.
"""

import hashlib
import math
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from tasks.gdsd import files
from tasks.gdsd.config.compute import ComputeConfig
from tasks.gdsd.config.hardware import HardwareConfig, TrainHardwareConfig, give_gpus
from tasks.gdsd.config.model_source import ModelSource
from tasks.gdsd.config.objective import GdsdConfig, Objective
from tasks.gdsd.config.publish import PublishConfig
from tasks.gdsd.config.sampler import (
    CacheConfig,
    EvaluationEngine,
    ExactConfig,
    RolloutEngine,
    SamplerConfig,
    check_cache,
)
from tasks.gdsd.domains import DomainChoice, make
from tasks.gdsd.domains.alphabet import ALPHABET
from tasks.gdsd.domains.sudoku import SudokuConfig
from tasks.gdsd.errors import ConfigError
from tasks.gdsd.strict import Config, Count

AdapterTarget = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class PromptFile(Config):
    """A prompt file, pinned by its content so that an edited file is never answered from the cache."""

    path: str = Field(min_length=1, description="Parquet, JSON lines or CSV; a path or any fsspec URI")
    sha256: str = Field(
        default_factory=lambda data: _pin(data["path"]),
        pattern="^[0-9a-f]{64}$",
        description="SHA-256 of the file; read from the file when the configuration is loaded, if not given",
    )


class HubDataset(Config):
    """A data set on the Hugging Face hub, pinned by its revision."""

    hub: str = Field(pattern=r"^[\w.-]+(/[\w.-]+)?$", description="the data set's id, such as openai/gsm8k")
    subset: str | None = Field(
        None, min_length=1, description="one of its configurations; null where there is one only"
    )
    split: str = Field("train", min_length=1, description="its split, not ours; slices such as train[:100] are allowed")
    revision: str = Field(pattern="^[0-9a-f]{40}$", description="the commit; a branch or a tag could move")


def _pin(path: str) -> str:
    try:
        with files.open_file(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except Exception as error:  # each store's library raises what it likes
        raise ConfigError(
            f"prompt file {path!r} cannot be read to pin its content ({error}); "
            "correct the path, or give its sha256 beside it if only the cluster can read it"
        ) from None


def _kind_of_source(value: object) -> str:
    on_hub = "hub" in value if isinstance(value, dict) else isinstance(value, HubDataset)
    return "hub" if on_hub else "path"


Source = Annotated[
    Annotated[PromptFile, Tag("path")] | Annotated[HubDataset, Tag("hub")], Discriminator(_kind_of_source)
]


class TestConfig(Config):
    """Test problems of a domain: generated from a seed, or read from a file or data set."""

    __test__ = False  # no test of ours, whatever pytest takes its name for

    domain: DomainChoice = DomainChoice(SudokuConfig())
    seed: int = Field(0, description="draws generated problems, and which ones are taken of a source")
    test_size: Count = Field(
        512, description="problems of the final comparison; nothing is chosen on them. Of a source: at most"
    )
    test_data: Source | None = Field(None, description="test problems from a file or the hub")
    columns: dict[str, str] = Field(
        {}, description="which column of the sources holds what: a name that the domain reads -> the source's name"
    )
    unusable: Literal["refuse", "drop"] = Field(
        "refuse", description="rows of a source that are no problem that can be judged: stop, or leave them out"
    )

    @property
    def sources(self) -> list[PromptFile | HubDataset]:
        """What is read rather than generated."""
        return [source for source in (self.test_data,) if source is not None]

    @model_validator(mode="after")
    def _check_sources(self) -> Self:
        domain, read = make(self.domain), {"id", "prompt", "problem", "reference"}
        if not domain.generates and self.test_data is None:
            raise ValueError(f"{self.domain.name} problems are not generated, so they need a source; set test_data")
        if self.unusable == "drop" and not self.sources:
            raise ValueError("unusable 'drop' is about rows of a source, and there is none; leave it out")
        if self.columns and not self.sources:
            raise ValueError("columns are those of a source, and there is none; leave them out, or name a source")
        if unknown := sorted(set(self.columns) - read - set(domain.columns)):
            raise ValueError(
                f"columns has {', '.join(unknown)}, but {self.domain.name} reads {', '.join(domain.columns)}, "
                f"or {', '.join(sorted(read))}"
            )
        named = list(self.columns.values())
        if twice := sorted({name for name in named if named.count(name) > 1}):
            raise ValueError(f"columns names {', '.join(twice)} more than once, but a column holds one thing")
        return self


class PromptConfig(TestConfig):
    """The problems of a run: generated from a seed, or read from files and data sets."""

    train_seed: int | None = Field(
        None,
        description="draws training and validation problems where they should differ from run to run and test problems "
        "should not; null: `seed` draws them too",
    )
    train_size: Count = Field(8192, description="training problems; rounds cycle through them. Of a source: at most")
    validation_size: Count = Field(256, description="problems that choose the best round. Of a source: at most")
    train_data: Source | None = Field(None, description="training problems from a file or the hub")
    validation_data: Source | None = Field(
        None, description="validation problems; null generates them, or else sets training problems aside"
    )
    near_duplicates: Literal["refuse", "drop"] = Field(
        "refuse",
        description="problems of one split that are nearly those of another: stop, or leave them out of training, and "
        "out of a validation set that was taken from the training source",
    )
    similarity: float = Field(
        0.7,
        gt=0,
        le=1,
        description="shared part of two problems' features (Jaccard) from which they are near-duplicates",
    )

    @property
    def sources(self) -> list[PromptFile | HubDataset]:
        """What is read rather than generated."""
        both = (self.train_data, self.validation_data, self.test_data)
        return [source for source in both if source is not None]


class TinyModelConfig(Config):
    """Shape of the tiny family's transformer."""

    hidden_size: int = Field(64, ge=8, le=1024, description="D: width of the hidden states")
    intermediate_size: int = Field(128, ge=8, le=4096, description="width inside the feed-forward maps")
    layers: int = Field(3, ge=1, le=48, description="transformer blocks")
    heads: int = Field(4, ge=1, le=64, description="attention heads of a block")
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

    steps: int = Field(60, ge=0, le=100_000, description="updates; 0 leaves the weights as they are drawn")
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

    @model_validator(mode="after")
    def _check(self) -> Self:
        twice = sorted({name for name in self.targets if self.targets.count(name) > 1})
        if twice:
            raise ValueError(f"targets has {', '.join(twice)} more than once, but a map has one adapter; name it once")
        return self


class PolicyConfig(Config):
    """The base policy that training starts from: a tiny one, made and warm-started here, or a published model.

    A published model's weights are bfloat16 on a GPU and float32 on the CPU.
    """

    seed: int = Field(0, description="draws a tiny model's weights and warm start, and the adapter's weights")
    tiny: TinyModelConfig | None = Field(TinyModelConfig(), description="null where there is a `model`")
    warm_start: WarmStartConfig | None = Field(WarmStartConfig(), description="null where there is a `model`")
    model: ModelSource | None = Field(None, description="a published model of a known family, from the hub or a folder")
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
                "a published model has its own shape and weights, so tiny and warm_start mean nothing; leave them out"
            )
        if self.model is None and (self.tiny is None or self.warm_start is None):
            raise ValueError(
                "there is neither a model nor both of tiny and warm_start; name a model, or leave them out"
            )
        if self.model is None and self.adapter is not None and self.adapter.base_bits is not None:
            raise ValueError(
                "adapter.base_bits is for published models, and the base is a tiny one, made here; leave it out"
            )
        return self


class RolloutConfig(Config):
    """What is generated in a round, and how the work is cut."""

    prompts_per_round: Count = Field(192, description="P: problems of a round")
    group_size: int = Field(4, ge=2, le=1024, description="completions per prompt; a group of one has no baseline")
    shards: int = Field(1, ge=1, le=512, description="map-task items per round; changes tokens by rounding at most")
    batch_size: Count = Field(256, description="completions per denoiser call; changes tokens by rounding at most")
    sampler: SamplerConfig = SamplerConfig()
    engine: RolloutEngine = RolloutEngine(ExactConfig())

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
        if isinstance(self.engine.root, CacheConfig):
            check_cache(self.engine.root, self.sampler)
        return self


class RewardConfig(Config):
    """From verdicts to advantages."""

    scale_by_std: bool = Field(False, description="divide leave-one-out advantages by the group's standard deviation")


class DistillConfig(Config):
    """One distillation epoch: a few updates on a round's scored completions."""

    objective: Objective = GdsdConfig()
    inner_steps: int = Field(3, ge=1, le=1000, description="N: optimizer updates per round")
    compute: ComputeConfig = ComputeConfig()
    learning_rate: float = Field(1e-3, gt=0, le=1, description="of AdamW, between its rise and its fall")
    warmup_steps: int = Field(10, ge=0, le=1_000_000, description="updates before the full learning rate")
    decay_after: int = Field(
        150, ge=1, le=1_000_000, description="updates after which the learning rate falls as 1 / sqrt(updates)"
    )
    weight_decay: float = Field(0.0, ge=0, le=1, description="of AdamW, on all that is trained")
    adam_beta1: float = Field(0.95, ge=0, lt=1, description="decay of AdamW's mean gradient")
    adam_beta2: float = Field(0.99, ge=0, lt=1, description="decay of AdamW's mean squared gradient")
    max_grad_norm: float = Field(1.0, gt=0, le=1e6, description="gradients longer than this are shortened to it")
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
    """The protocol under which policies are compared, and how the work is cut."""

    samples: int = Field(1, ge=1, le=1024, description="n: answers to each problem")
    pass_at: list[Annotated[int, Field(ge=1, le=1024)]] = Field(
        [1], min_length=1, description="k of the reported pass@k; each at most `samples`"
    )
    shards: int = Field(1, ge=1, le=512, description="map-task items; what is done is kept when a run is interrupted")
    batch_size: Count = Field(512, description="completions per denoiser call; changes tokens by rounding at most")
    sampler: EvaluationSamplerConfig = EvaluationSamplerConfig()
    engine: EvaluationEngine = ExactConfig()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if max(self.pass_at) > self.samples:
            raise ValueError(
                f"pass_at has {max(self.pass_at)}, but there are {self.samples} samples of a problem; raise samples"
            )
        if len(set(self.pass_at)) != len(self.pass_at):
            raise ValueError(f"pass_at {self.pass_at} has a value twice; name it once")
        if self.samples > 1 and self.sampler.temperature == 0:
            raise ValueError(
                f"samples {self.samples} at temperature 0 are all alike; use 1, or a sampler.temperature above 0"
            )
        return self


class GuardConfig(TestConfig):
    """Problems of a kind that training must not make the policy worse at."""

    tolerance: float = Field(
        0.02, ge=0, le=1, description="how far the interval of the solved difference may reach below 0"
    )


class GateConfig(Config):
    """When the trained policy is promoted."""

    margin: float = Field(0.0, ge=0, lt=1, description="what the interval of the solved difference must clear")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="of the intervals of gains and differences")
    resamples: int = Field(10_000, ge=100, le=1_000_000, description="bootstrap resamples of the test problems")
    guards: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")], GuardConfig] = Field(
        {}, description="other test problems, by a name of your own, on which the policy must not get worse"
    )


class TrainConfig(Config):
    """A whole training run."""

    name: str = Field("tiny_sudoku", pattern=r"^[a-z0-9][a-z0-9_-]{0,127}$", description="names the run in its report")
    seed: int = Field(0, description="draws rollouts, masks and the order of prompts")
    rounds: Count = Field(150, description="rounds of rollout, reward and distillation")
    validate_every: Count = Field(10, description="rounds between validations; the last round is always validated")
    patience: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="validations in a row that are no better than the best before them (by the solved share, then by "
        "the reward), after which the run stops; null: never",
    )
    prompts: PromptConfig = PromptConfig()
    policy: PolicyConfig = PolicyConfig()
    rollout: RolloutConfig = RolloutConfig()
    reward: RewardConfig = RewardConfig()
    distill: DistillConfig = DistillConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    judge: GateConfig = GateConfig()
    publish: PublishConfig = PublishConfig()
    hardware: TrainHardwareConfig = TrainHardwareConfig()

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: object) -> object:
        return give_gpus(values)

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.hardware.check_processes(self.distill.compute.processes, "distill.compute")
        check_supply(self.prompts, self.rollout)
        check_ends(self.rollout.sampler, self.distill.objective, "distill.objective")
        domains = {"prompts": self.prompts.domain}
        domains |= {f"judge.guards.{name}": guard.domain for name, guard in self.judge.guards.items()}
        check_readable(self.policy, domains)
        check_bits(self.policy, self.distill)
        self._check_patience()
        return self

    def _check_patience(self) -> None:
        """Refuses a patience that no run can lose before its end."""
        validations = math.ceil(self.rounds / self.validate_every)
        if self.patience is not None and self.patience > validations - 2:
            raise ValueError(
                f"patience {self.patience} never stops a run that validates {validations} times, in {self.rounds} "
                f"rounds every {self.validate_every}: the first validation is the best so far, and the last one is the "
                f"end; use at most {validations - 2}, validate more often, or leave it out"
                if validations > 2
                else f"patience {self.patience} never stops a run that validates {validations} times; validate more "
                "often, or leave it out"
            )


class EvaluateConfig(Config):
    """What an evaluation of a given checkpoint needs; of a run's prompts it takes those fields that make the test."""

    seed: int = Field(0, description="draws the completions where the temperature is not 0")
    prompts: TestConfig = TestConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    lengths: list[Annotated[int, Field(ge=1, le=4096)]] = Field(
        [], description="completion lengths to try one after the other; empty: evaluation.sampler.length alone"
    )
    hardware: HardwareConfig = HardwareConfig()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.lengths)) != len(self.lengths):
            raise ValueError(f"lengths {self.lengths} has a value twice; name it once")
        block = self.evaluation.sampler.block_length
        if wrong := [length for length in self.lengths if length % block]:
            raise ValueError(f"lengths {wrong} are no multiples of evaluation.sampler.block_length {block}")
        return self

    def protocols(self) -> list[EvaluationConfig]:
        """Returns one protocol per length."""
        lengths = self.lengths or [self.evaluation.sampler.length]
        samplers = [self.evaluation.sampler.model_copy(update={"length": length}) for length in lengths]
        return [self.evaluation.model_copy(update={"sampler": sampler}) for sampler in samplers]


def check_ends(sampler: SamplerConfig, objective: Objective, where: str) -> None:
    """Refuses to train on what the policy never wrote."""
    if sampler.stop_at_end and objective.after_end == "counted":
        raise ValueError(
            f"rollout.sampler.stop_at_end true fills what follows a completion's end without asking the policy, and "
            f"{where}.after_end 'counted' trains on it; set after_end to 'ignored', or leave stop_at_end out"
        )


def check_supply(prompts: PromptConfig, rollout: RolloutConfig) -> None:
    """Refuses problems that cannot be trained on, and a round that wants more different ones than there will be."""
    if prompts.train_data is None and not make(prompts.domain).generates:
        raise ValueError(
            f"{prompts.domain.name} problems are not generated, so training needs a source; set prompts.train_data"
        )
    if rollout.prompts_per_round > prompts.train_size:
        raise ValueError(
            f"rollout.prompts_per_round {rollout.prompts_per_round} exceeds prompts.train_size "
            f"{prompts.train_size}, but the problems of a round differ; lower one or raise the other"
        )
    drift = rollout.engine.drift
    if drift is not None and drift.sample > prompts.train_size:
        raise ValueError(
            f"rollout.engine.drift.sample {drift.sample} exceeds prompts.train_size {prompts.train_size}, but each "
            f"problem is completed once; use at most {prompts.train_size}"
        )


def check_bits(policy: PolicyConfig, distill: DistillConfig) -> None:
    """Refuses to spread weights that lie packed."""
    if distill.compute.sharding == "fsdp" and policy.adapter is not None and policy.adapter.base_bits is not None:
        raise ValueError(
            f"distill.compute.sharding 'fsdp' does not spread weights of policy.adapter.base_bits "
            f"{policy.adapter.base_bits}, of which an 8B model has 5 GB; use 'none', or leave base_bits out"
        )


def check_readable(policy: PolicyConfig, domains: Mapping[str, DomainChoice]) -> None:
    """Refuses domains whose prompts the tiny family's character tokenizer does not know."""
    for where, choice in domains.items() if policy.model is None else ():
        domain = make(choice)
        if unknown := sorted(set(domain.phrase(domain.example.problem)) - set(ALPHABET)):
            raise ValueError(
                f"{where}.domain {choice.name} has prompts with characters that the tiny family does not know, "
                f"{unknown}; use one of plain characters, such as sudoku or countdown in the format 'bare'"
            )
