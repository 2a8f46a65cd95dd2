"""Which engine makes completions, and how it samples. The engines themselves are in `rollout/engines`."""

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, RootModel, Tag, field_validator, model_validator

from tasks.gdsd.errors import ConfigError
from tasks.gdsd.strict import Config, Count, StrictJson, by_name, distinct


class ExactConfig(Config):
    """The policy's own distribution: every step reads the whole canvas. What another one makes carries its name."""

    name: Literal["exact"] = "exact"
    compile: bool = Field(
        False, description="compile the network first (a minute or more, and a C++ compiler on the CPU)"
    )


class DriftConfig(Config):
    """How far an approximate engine may be from the exact one, measured each round on a sample of its completions.

    Where a whole 95 % interval is beyond its limit the run goes back to the exact engine for good, and says so.
    """

    sample: int = Field(
        64,
        ge=2,
        le=4096,
        description="training problems, the same in each round of a run, that both engines complete once beforehand; "
        "the fewer there are, the wider the intervals, and the further off an engine has to be to be given up",
    )
    agreement: float = Field(
        0.5,
        ge=0,
        le=1,
        description="least share of equal tokens in the same places, up to the later of both ends, from the same "
        "random numbers; given up where the interval's upper end is below",
    )
    reward_gap: float = Field(
        0.1,
        ge=0,
        description="largest difference of the mean rewards of the same problems, either way; given up where the "
        "interval's end that is nearer to 0 is beyond",
    )


class Approximate(Config):
    """An engine of rollouts that are not quite the policy's, so its drift from the exact one is measured."""

    name: str
    drift: DriftConfig = DriftConfig()


class CacheConfig(Approximate):
    """Keys and values that are read again from an earlier step instead of computed anew (arXiv 2505.22618).

    All are computed anew in a block's first step.
    """

    refresh_every: Count | None = Field(
        None,
        description="denoiser calls of a block after which all are computed anew (a step that unmasks nothing makes "
        "none); null: only in the block's first",
    )


class PrefixCacheConfig(CacheConfig):
    """Keeps the keys and values of all that comes before the block."""

    name: Literal["prefix_cache"] = "prefix_cache"


class DualCacheConfig(CacheConfig):
    """Keeps the keys and values of all that comes before and after the block."""

    name: Literal["dual_cache"] = "dual_cache"


class ThresholdConfig(Config):
    """Unmasks all tokens of the block that are sure enough, in as few steps as that takes (arXiv 2505.22618).

    For evaluations only, whose protocol then carries its name: trained on, its completions make learning unstable.
    """

    name: Literal["threshold"] = "threshold"
    confidence: float = Field(
        0.9, gt=0, lt=1, description="probability from which a token is unmasked at once; the step's share always is"
    )


ForRollouts = Annotated[
    Annotated[ExactConfig, Tag("exact")]
    | Annotated[PrefixCacheConfig, Tag("prefix_cache")]
    | Annotated[DualCacheConfig, Tag("dual_cache")],
    by_name("exact"),
]


class RolloutEngine(RootModel[ForRollouts], StrictJson):
    """The engine of a round's rollouts."""

    model_config = ConfigDict(frozen=True, strict=True, validate_default=True, allow_inf_nan=False)

    @property
    def drift(self) -> DriftConfig | None:
        """The limits of an approximate engine; None of the exact one."""
        return self.root.drift if isinstance(self.root, Approximate) else None

    def without_limits(self) -> "RolloutEngine":
        """Returns the engine with the default limits: it makes the same completions, whatever they are."""
        if self.drift is None:
            return self
        return RolloutEngine(self.root.model_copy(update={"drift": DriftConfig()}))


EvaluationEngine = Annotated[
    Annotated[ExactConfig, Tag("exact")] | Annotated[ThresholdConfig, Tag("threshold")], by_name("exact")
]
EngineConfig = ExactConfig | PrefixCacheConfig | DualCacheConfig | ThresholdConfig


class SamplerConfig(Config):
    """How a completion is unmasked: which tokens are drawn from what, how many in a step, and which come first."""

    length: int = Field(16, ge=1, le=4096, description="completion tokens")
    block_length: int = Field(16, ge=1, le=4096, description="tokens of a block; blocks are unmasked left to right")
    steps_per_block: int = Field(5, ge=1, le=4096, description="steps of a block")
    temperature: float = Field(1.0, ge=0, le=10, description="0 takes the most likely token")
    order: Literal["confidence", "entropy"] | None = Field(
        None,
        description="what is unmasked first: the drawn tokens that are likeliest (LLaDA, arXiv 2502.09992), or those "
        "whose distribution has the least entropy (Dream, arXiv 2508.15487, with its schedule); null: as the authors "
        "of the policy's family sample",
    )
    top_p: float | None = Field(
        None,
        gt=0,
        le=1,
        description="draw from the fewest likeliest tokens with this probability together; 1: from all; null: as the "
        "authors of the policy's family have it for this order, which is all but for Dream: 0.95 above temperature 0",
    )
    top_k: int | None = Field(
        None,
        ge=0,
        le=1_000_000,
        description="draw from so many likeliest tokens of those; 0: from all; null: as the authors of the policy's "
        "family have it for this order, which is all but for Dream: 50",
    )
    ban: list[Annotated[str, Field(min_length=1)]] = Field(
        [], description="further tokens that no completion contains, by their text in the tokenizer's vocabulary"
    )
    stop_at_end: bool = Field(
        False,
        description="make no further block once a completion has an end token, and fill it with end tokens; the text "
        "is the same. Where training counts what follows the end (objective.after_end), it may not",
    )

    _distinct = field_validator("ban")(distinct)

    @model_validator(mode="after")
    def _check_sampler(self) -> Self:
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
        if self.stop_at_end and self.length == self.block_length:
            raise ValueError(
                f"stop_at_end acts between blocks, and {self.length} tokens in blocks of {self.block_length} are one; "
                "lower block_length or leave it out"
            )
        if self.temperature == 0 and self.order == "confidence" and ((self.top_p or 1.0) < 1 or self.top_k):
            raise ValueError(
                "top_p and top_k change nothing at temperature 0 in the order 'confidence'; leave them out"
            )
        return self

    @property
    def calls_per_block(self) -> int:
        """Denoiser calls of a block: one for each step that unmasks something."""
        return sum(share > 0 for share in self.shares())

    @property
    def blocks(self) -> int:
        return self.length // self.block_length

    @property
    def steps(self) -> int:
        """Steps of a whole completion."""
        return self.blocks * self.steps_per_block

    def shares(self) -> list[int]:
        """Returns how many tokens of a block each of its steps unmasks, for a resolved `order`.

        'confidence': as evenly as can be, the remainder in the first steps. 'entropy': Dream's schedule, where time t
        falls from 1 to 0.001 in even steps and a step from t to s unmasks the whole part of 1 - s/t of what is hidden,
        the last one everything. Its first steps may unmask nothing.
        """
        tokens, steps = self.block_length, self.steps_per_block
        if self.order != "entropy":
            return [tokens // steps + (step < tokens % steps) for step in range(steps)]
        found: list[int] = []
        for step in range(steps - 1):
            now, then = (1 - (1 - 1e-3) * at / steps for at in (step, step + 1))
            found.append(int((tokens - sum(found)) * (1 - then / now)))
        return [*found, tokens - sum(found)]


def check_cache(engine: CacheConfig, sampler: SamplerConfig) -> None:
    """Refuses a cache that nothing would be read from, and a refresh that never comes.

    Where the order is left to the policy's family a block may have fewer calls, so ask again when it is known.

    Raises:
        ConfigError: the engine's setting would have no effect.
    """
    every, calls = engine.refresh_every, sampler.calls_per_block
    order = "" if sampler.order is None else f" in the order {sampler.order!r}"
    if calls == 1:
        raise ConfigError(
            f"engine.name {engine.name!r} keeps what a block's first denoiser call has computed for its others, and "
            f"with sampler.steps_per_block {sampler.steps_per_block}{order} there are none; raise it, or use 'exact'"
        )
    if every == 1:
        raise ConfigError("engine.refresh_every 1 computes all anew in every step, as 'exact' does; use 2 or more")
    if every is not None and every >= calls:
        raise ConfigError(
            f"engine.refresh_every {every} is never reached in the {calls} denoiser calls of a block{order}; "
            + (f"use 2 to {calls - 1}, or null" if calls > 2 else "use null")
        )
