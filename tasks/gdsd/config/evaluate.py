"""How policies are measured, and when the gate promotes a trained one."""

from typing import Annotated, ClassVar, Self

from pydantic import Field, field_validator, model_validator

from tasks.gdsd.config.hardware import HardwareConfig
from tasks.gdsd.config.prompts import TestConfig
from tasks.gdsd.config.sampler import EvaluationEngine, ExactConfig, SamplerConfig
from tasks.gdsd.strict import Config, Count, distinct


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

    _distinct = field_validator("pass_at")(distinct)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if max(self.pass_at) > self.samples:
            raise ValueError(
                f"pass_at has {max(self.pass_at)}, but there are {self.samples} samples of a problem; raise samples"
            )
        if self.samples > 1 and self.sampler.temperature == 0:
            raise ValueError(
                f"samples {self.samples} at temperature 0 are all alike; use 1, or a sampler.temperature above 0"
            )
        return self


class GuardConfig(TestConfig):
    """Problems of a kind that training must not make the policy worse at."""

    section: ClassVar[str] = "judge.guards.NAME"

    tolerance: float = Field(
        0.02, ge=0, le=1, description="how far the interval of the solved difference may reach below 0"
    )


class GateConfig(Config):
    """When the trained policy is promoted."""

    margin: float = Field(0.0, ge=0, lt=1, description="what the interval of the solved difference must clear")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="of the intervals of gains and differences")
    resamples: int = Field(10_000, ge=100, le=1_000_000, description="bootstrap resamples of the test problems")
    guards: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")], GuardConfig] = Field(
        {},
        max_length=64,
        description="other test problems, by a name of your own, on which the policy must not get worse",
    )


class EvaluateConfig(Config):
    """What an evaluation of a given checkpoint needs; of a run's prompts it takes those fields that make the test."""

    seed: int = Field(0, description="draws the completions where the temperature is not 0")
    prompts: TestConfig = TestConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    lengths: list[Annotated[int, Field(ge=1, le=4096)]] = Field(
        [],
        max_length=32,
        description="completion lengths to try one after the other; empty: evaluation.sampler.length alone",
    )
    hardware: HardwareConfig = HardwareConfig()

    _distinct = field_validator("lengths")(distinct)

    @model_validator(mode="after")
    def _check(self) -> Self:
        block = self.evaluation.sampler.block_length
        if wrong := [length for length in self.lengths if length % block]:
            raise ValueError(f"lengths {wrong} are no multiples of evaluation.sampler.block_length {block}")
        return self

    def protocols(self) -> list[EvaluationConfig]:
        """Returns one protocol per length."""
        lengths = self.lengths or [self.evaluation.sampler.length]
        samplers = [self.evaluation.sampler.model_copy(update={"length": length}) for length in lengths]
        return [self.evaluation.model_copy(update={"sampler": sampler}) for sampler in samplers]
