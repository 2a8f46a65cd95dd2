"""What a run is made of: one pydantic model per stage.

Every field changes a result, a cost or a record, within a stated range. Unknown keys, wrong types and impossible
combinations are refused. The error names the dotted path, the value, what is allowed and the nearest name.
"""

import math
from typing import Self

from pydantic import Field, model_validator

from tasks.gdsd.config.compute import ComputeConfig
from tasks.gdsd.config.evaluate import EvaluationConfig, GateConfig
from tasks.gdsd.config.hardware import TrainHardwareConfig, give_gpus
from tasks.gdsd.config.objective import GdsdConfig, Objective
from tasks.gdsd.config.policy import PolicyConfig, check_readable, check_warm_start
from tasks.gdsd.config.prompts import PromptConfig
from tasks.gdsd.config.publish import PublishConfig
from tasks.gdsd.config.sampler import CacheConfig, ExactConfig, RolloutEngine, SamplerConfig, check_cache
from tasks.gdsd.domains import DomainChoice, make
from tasks.gdsd.strict import Config, Count


class RolloutConfig(Config):
    """What is generated in a round, and how the work is cut."""

    prompts_per_round: Count = Field(112, description="P: problems of a round")
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
    """One distillation epoch: a few updates on a round's rewarded completions."""

    objective: Objective = GdsdConfig()
    inner_steps: int = Field(3, ge=1, le=1000, description="N: optimizer updates per round")
    compute: ComputeConfig = ComputeConfig()
    learning_rate: float = Field(2e-3, gt=0, le=1, description="of AdamW, between its rise and its fall")
    warmup_steps: int = Field(10, ge=0, le=1_000_000, description="updates before the full learning rate")
    decay_after: int = Field(
        150, ge=1, le=1_000_000, description="updates after which the learning rate falls as 1 / sqrt(updates)"
    )
    weight_decay: float = Field(0.0, ge=0, le=1, description="of AdamW, on all that is trained")
    adam_beta1: float = Field(0.95, ge=0, lt=1, description="decay of AdamW's mean gradient")
    adam_beta2: float = Field(0.99, ge=0, lt=1, description="decay of AdamW's mean squared gradient")
    ema_decay: float = Field(
        0.7,
        ge=0,
        lt=1,
        description="share of the old policy in a round's new one, which is so an average of what was trained so far; "
        "0: the policy is what is trained",
    )
    max_grad_norm: float = Field(1.0, gt=0, le=1e6, description="gradients longer than this are shortened to it")
    max_skipped: int = Field(3, ge=1, le=1000, description="non-finite updates in a row after which the run stops")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if isinstance(self.objective, GdsdConfig) and self.inner_steps == 1 and self.ema_decay == 0:
            if self.objective.trust_region is not None:
                raise ValueError(
                    "objective.trust_region never acts in the first update of a round, and inner_steps is 1; "
                    "raise inner_steps or ema_decay, or set trust_region to null"
                )
            if self.objective.baseline == "group" and self.objective.reference_weight == 0:
                raise ValueError(
                    "objective.baseline 'group' is 'zero' in the first update of a round, where the mean residual of a "
                    "group is 0, and inner_steps is 1; raise inner_steps or ema_decay, or use baseline 'zero'"
                )
        return self


class ResidentConfig(Config):
    """What rounds in one task are made by: the parts of a run's configuration on which their numbers depend."""

    domain: DomainChoice  # its rule
    rollout: RolloutConfig
    reward: RewardConfig
    distill: DistillConfig
    seed: int
    keep: list[Count]  # rounds, counted from 1, whose completions are kept as a table


class TrainConfig(Config):
    """A whole training run."""

    name: str = Field("tiny_sudoku", pattern=r"^[a-z0-9][a-z0-9_-]{0,159}$", description="names the run in its report")
    seed: int = Field(0, description="draws rollouts, masks and the order of prompts")
    rounds: Count = Field(150, description="rounds of rollout, reward and distillation")
    validate_every: Count = Field(10, description="rounds between validations; the last round is always validated")
    rounds_per_task: Count = Field(
        1,
        description="1: each stage of a round is a task of its own; more: so many rounds are one task, with the policy "
        "in memory, on the machine of hardware.distill. It ends where a validation is due",
    )
    keep_rollouts: list[Count] = Field(
        [],
        description="rounds, counted from 1, whose rewarded completions a task of several rounds returns as tables; "
        "with rounds_per_task 1 those of all rounds are results of their tasks",
    )
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
        check_objective(self.rollout.sampler, self.distill.objective, "distill.objective")
        domains = {"prompts": self.prompts.domain}
        domains |= {f"judge.guards.{name}": guard.domain for name, guard in self.judge.guards.items()}
        check_readable(self.policy, domains)
        check_warm_start(self.policy, self.prompts.domain)
        check_bits(self.policy, self.distill, "distill")
        self._check_patience()
        self._check_resident()
        return self

    def resident(self, rounds: range) -> ResidentConfig:
        """Returns what some rounds, numbered from 0, are made by."""
        return ResidentConfig(
            domain=self.prompts.domain.rule(),
            rollout=self.rollout,
            reward=self.reward,
            distill=self.distill,
            seed=self.seed,
            keep=[number for number in self.keep_rollouts if number - 1 in rounds],
        )

    def _check_resident(self) -> None:
        """Refuses rounds in one task that its processes cannot share, and tables that are kept anyway, or never."""
        check_sharing(self.rounds_per_task, self.rollout, self.distill.compute, "distill.compute")
        if self.rounds_per_task == 1 and self.keep_rollouts:
            raise ValueError(
                "keep_rollouts is for rounds_per_task above 1; with 1, the completions of all rounds are results of "
                "their tasks; leave it out, or raise rounds_per_task"
            )
        if beyond := [number for number in self.keep_rollouts if number > self.rounds]:
            raise ValueError(f"keep_rollouts has round {beyond[0]}, but the run has {self.rounds} rounds; leave it out")

    def _check_patience(self) -> None:
        """Refuses a patience that no run can lose before its end."""
        validations = math.ceil(self.rounds / self.validate_every)
        if self.patience is not None and self.patience > validations - 2:
            most = f"use at most {validations - 2}, " if validations > 2 else ""
            raise ValueError(
                f"patience {self.patience} never stops a run that validates {validations} times, in {self.rounds} "
                f"rounds every {self.validate_every}: the first validation is the best so far, and the last one is the "
                f"end; {most}validate more often, or leave it out"
            )


def check_objective(sampler: SamplerConfig, objective: Objective, where: str) -> None:
    """Refuses to train on what the policy never wrote, and blocks of masks that are no blocks."""
    if sampler.stop_at_end and objective.after_end == "counted":
        raise ValueError(
            f"rollout.sampler.stop_at_end true fills what follows a completion's end without asking the policy, and "
            f"{where}.after_end 'counted' trains on it; set after_end to 'ignored', or leave stop_at_end out"
        )
    if isinstance(objective, GdsdConfig) and (objective.mask_blocks or 0) >= sampler.length:
        raise ValueError(
            f"{where}.mask_blocks {objective.mask_blocks} makes one block of the {sampler.length} tokens of "
            "rollout.sampler.length, in which any token may be hidden; lower it, or leave it out"
        )


def check_sharing(size: int, rollout: RolloutConfig, compute: ComputeConfig, where: str) -> None:
    """Refuses rounds in one task that its processes cannot share."""
    if size > 1 and compute.nodes > 1:
        raise ValueError(
            f"rounds_per_task {size} makes rounds on one machine, and {where}.nodes is {compute.nodes}; set nodes to "
            "1, or rounds_per_task to 1"
        )
    if size > 1 and rollout.shards % compute.processes:
        raise ValueError(
            f"rounds_per_task {size} lets the {compute.processes} {where}.processes share the shards of the rollouts, "
            f"and {rollout.shards} rollout.shards do not go among them; use a multiple, such as {compute.processes}"
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


def check_bits(policy: PolicyConfig, distill: DistillConfig, where: str) -> None:
    """Refuses to spread weights that lie packed."""
    if distill.compute.sharding == "fsdp" and policy.adapter is not None and policy.adapter.base_bits is not None:
        raise ValueError(
            f"{where}.compute.sharding 'fsdp' does not spread weights of policy.adapter.base_bits "
            f"{policy.adapter.base_bits}, of which an 8B model has 5 GB; use 'none', or leave base_bits out"
        )
