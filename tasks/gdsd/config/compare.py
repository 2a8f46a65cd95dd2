"""What a comparison of objectives is made of."""

from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from tasks.gdsd.config.evaluate import EvaluationConfig
from tasks.gdsd.config.hardware import TrainHardwareConfig, give_gpus
from tasks.gdsd.config.objective import DiffuGrpoConfig, EspoConfig, GdsdConfig, Objective, SpgConfig, Wd1Config
from tasks.gdsd.config.policy import PolicyConfig, TinyModelConfig, WarmStartConfig, check_readable, check_warm_start
from tasks.gdsd.config.prompts import PromptConfig
from tasks.gdsd.config.train import (
    DistillConfig,
    RewardConfig,
    RolloutConfig,
    TrainConfig,
    check_bits,
    check_objective,
    check_sharing,
    check_supply,
)
from tasks.gdsd.domains import DomainChoice
from tasks.gdsd.domains.sudoku import SudokuConfig
from tasks.gdsd.strict import Config, Count, distinct

MOST_RUNS = 200  # of a comparison; a cluster is given them as one workflow, of at most a megabyte


def _contestants() -> dict[str, DistillConfig]:
    """The objectives of the default comparison, under the same masks and the same optimizer, as their authors train."""
    objectives: dict[str, Objective] = {
        "gdsd": GdsdConfig(mask_source="random", reference_weight=0),
        "gdsd_tlc": GdsdConfig(mask_source="random", readout="centred", reference_weight=0),
        "espo": EspoConfig(mask_pairs=1, share_masks=True),
        "spg": SpgConfig(share_masks=True, eubo_power=1.0),
        "wd1": Wd1Config(share_masks=True),
        "diffu_grpo": DiffuGrpoConfig(share_masks=True),
    }
    return {
        name: DistillConfig(objective=objective, learning_rate=1e-3, ema_decay=0, max_skipped=1000)
        for name, objective in objectives.items()
    }


class TuningConfig(Config):
    """How a contestant's learning rate is chosen: all have the same budget, and no test problem takes part."""

    factors: list[Annotated[float, Field(gt=0, le=1000)]] = Field(
        [0.1, 0.3, 1.0],
        min_length=2,
        description="multiples of its learning rate that a contestant tries; the best on validation problems is used",
    )
    seeds: list[int] = Field(
        [100], min_length=1, description="a run of each factor per seed; none of the final runs' seeds"
    )

    _distinct = field_validator("factors", "seeds")(distinct)


class CompareConfig(Config):
    """Several objectives trained from one base on the same prompts, each at the learning rate that suits it best."""

    name: str = Field("compare_tiny", pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$", description="names the comparison")
    seeds: list[int] = Field(
        [0, 1, 2, 3, 4],
        min_length=2,
        description="a run of each contestant per seed, on the test problems; two at least, for an interval",
    )
    tuning: TuningConfig | None = Field(TuningConfig(), description="null: each contestant has its own learning rate")
    rounds: Count = Field(32, description="rounds of every run")
    evaluate_every: Count = Field(8, description="rounds between the points of a curve; the last round is always one")
    rounds_per_task: Count = Field(
        1, description="rounds that are one task, with the policy in memory, see `train`; they change no result"
    )
    # The puzzles and the model that the published comparison was measured on (docs/results.md).
    prompts: PromptConfig = PromptConfig(domain=DomainChoice(SudokuConfig(min_empty=3, max_empty=5)))
    policy: PolicyConfig = PolicyConfig(
        tiny=TinyModelConfig(intermediate_size=128), warm_start=WarmStartConfig(steps=60)
    )
    rollout: RolloutConfig = RolloutConfig(prompts_per_round=64)
    reward: RewardConfig = RewardConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    contestants: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")], DistillConfig] = Field(
        default_factory=_contestants,
        min_length=1,
        description="what is compared, by name; one whose updates are not finite stops all after its max_skipped",
    )
    hardware: TrainHardwareConfig = TrainHardwareConfig()

    _distinct = field_validator("seeds")(distinct)

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: object) -> object:
        return give_gpus(values)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, distill in self.contestants.items():
            self.hardware.check_processes(distill.compute.processes, f"contestants.{name}.compute")
            check_objective(self.rollout.sampler, distill.objective, f"contestants.{name}.objective")
            check_bits(self.policy, distill, f"contestants.{name}")
            check_sharing(self.rounds_per_task, self.rollout, distill.compute, f"contestants.{name}.compute")
        if self.tuning is not None:
            if shared := sorted({*self.seeds} & {*self.tuning.seeds}):
                raise ValueError(
                    f"tuning.seeds has {shared} of seeds: a run that was chosen for its result would then count in the "
                    "mean; use others"
                )
            for name, distill in self.contestants.items():
                if (highest := distill.learning_rate * max(self.tuning.factors)) > 1:
                    raise ValueError(
                        f"contestants.{name}.learning_rate {distill.learning_rate} times the highest of tuning.factors "
                        f"is {highest}, but a learning rate is at most 1; lower either"
                    )
        each = len(self.seeds) + (len(self.tuning.factors) * len(self.tuning.seeds) if self.tuning is not None else 0)
        if (runs := each * len(self.contestants)) > MOST_RUNS:
            raise ValueError(
                f"{len(self.contestants)} contestants with {each} runs each are {runs} runs, but a cluster is given at "
                f"most {MOST_RUNS} at once; use fewer seeds, factors or contestants, or several comparisons"
            )
        check_supply(self.prompts, self.rollout)
        check_readable(self.policy, {"prompts": self.prompts.domain})
        check_warm_start(self.policy, self.prompts.domain)
        return self

    def run(self, contestant: str, name: str, seed: int) -> TrainConfig:
        """Returns a contestant's run as a configuration of its own, before a learning rate is chosen."""
        return TrainConfig(
            name=name,
            seed=seed,
            rounds=self.rounds,
            validate_every=self.evaluate_every,
            rounds_per_task=self.rounds_per_task,
            prompts=self.prompts,
            policy=self.policy,
            rollout=self.rollout,
            reward=self.reward,
            distill=self.contestants[contestant],
            evaluation=self.evaluation,
            hardware=self.hardware,
        )
