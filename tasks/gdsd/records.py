"""What stages report about themselves: the typed values that travel to the gate and into the report.

Seconds are wall-clock time of the work itself, without process starts and transfers. Seconds since 1970 are by the
clock of the machine that did the work. A device has the name that its driver gives it, and a CPU is `cpu`. Records from
before devices were kept have None.
"""

import gzip
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.gdsd.config.sampler import EvaluationEngine, ExactConfig, RolloutEngine, SamplerConfig
from tasks.gdsd.config.train import DistillConfig
from tasks.gdsd.domains import DomainChoice
from tasks.gdsd.errors import DataError

GZIP = b"\x1f\x8b"  # with which a packed file begins (RFC 1952)


class Record(BaseModel):
    """Base of all records."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def load(cls, file: Path) -> Self:
        """Reads a record as a run has left it, packed or not; a store may have given it another name.

        Raises:
            DataError: it is missing, damaged, or of another version.
        """
        try:
            data = file.read_bytes()
            return cls.model_validate_json(gzip.decompress(data) if data.startswith(GZIP) else data)
        except (OSError, EOFError, zlib.error, ValidationError) as error:
            found = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise DataError(
                f"{file} cannot be read: {found}. It was cut off or damaged on its way, or another version has written "
                f"it; copy it again, or remove {file.parent} and run again what made it"
            ) from error


class PromptStats(Record):
    """How many problems there are, and what checking them found."""

    train: int
    validation: int
    test: int
    near_duplicates: int  # problems left out for being nearly those of another split
    unusable: int  # rows of the sources left out, since they make no usable problem or the same as another
    checks: int
    warnings: list[str]
    seconds: float
    ended_unix_seconds: float = 0.0  # when the work was done; 0 in records from before it was kept


class CheckStats(Record):
    """What verdicts on a few answers showed of the rewards before anything was trained, and what they cost."""

    warnings: list[str] = []
    seconds: float = 0.0
    ended_unix_seconds: float = 0.0  # when the work was done


class PolicyStats(Record):
    """Size of the base policy, how it reads the training prompts, and what preparing it cost."""

    parameters: int
    prompt_tokens_mean: float
    prompt_tokens_longest: int
    train_sha256: str | None = None  # of the training problems, as of an evaluation's; None in records of before
    unusable: int = 0  # problems of all splits and guards left out: too long, or with characters that the policy lacks
    seconds: float
    ended_unix_seconds: float = 0.0  # when the work was done; 0 in records from before it was kept
    parent: str | None = None  # content digest of the champion that it is; None where the configuration names the base
    device: str | None = None  # that it was made on


class RolloutStats(Record):
    """What a shard of rollouts cost."""

    completions: int
    tokens: int
    positions: int  # tokens that went through the network's blocks, over all steps
    seconds: float
    device: str | None = None  # that did the work
    ended_unix_seconds: float  # when the work was done


class AnswerStats(Record):
    """What a shard of an evaluation's answers is of, and what it cost."""

    round: int  # rounds of distillation behind the policy
    problems: int  # of the whole evaluation
    prompts_sha256: str
    sampler: SamplerConfig  # with what the configuration left to the policy's family
    tokens: int
    seconds: float
    ended_unix_seconds: float  # when the work was done
    device: str | None = None  # that did the work


class RewardStats(Record):
    """A round's rewards, and what its rollouts and their rewards cost."""

    reward_mean: float
    reward_std: float
    solved: float | None  # share of the completions of which is known whether they are right; None if it is of none
    judged: float  # share of completions that have a reward
    frac_zero_std: float  # share of groups without spread, which carry no signal
    parts: dict[str, float | None]  # mean of each part of the reward where it was judged; None if it never was
    empty: float  # share of completions without any text
    truncated: float  # share of completions that ran out of tokens before they had the asked form
    distinct: float | None = None  # mean share of a group's completions that differ in their text
    unrewarded: str | None = None  # what the domain remarks of a completion without a reward
    warnings: list[str]  # expectations that failed without stopping the run
    completions: int
    tokens: int
    engine: str  # which made the completions
    device: str | None = None  # that they were made on
    rollout_seconds: float  # summed over shards
    rollout_busy_seconds: float  # in which at least one shard was at work
    rollout_began_unix_seconds: float  # when the first shard's work began
    reward_seconds: float
    ended_unix_seconds: float | None = None  # when the rewards were there; None in records from before it was kept

    def since(self, moment: float) -> Self:
        """Returns it without the seconds and tokens of work from before a moment, in seconds since 1970."""
        is_made = self.rollout_began_unix_seconds >= moment
        is_rewarded = is_made if self.ended_unix_seconds is None else self.ended_unix_seconds >= moment
        rollouts: dict[str, float] = {} if is_made else {"tokens": 0, "rollout_seconds": 0.0}
        return self.model_copy(update=rollouts if is_rewarded else {**rollouts, "reward_seconds": 0.0})


class StepStats(Record):
    """One optimizer update; means over the judged completions. None where not finite, or not the objective's."""

    loss: float | None
    residual_abs: float | None  # |score - target| per token: GDSD
    shift_abs: float | None  # |score - old score| per token
    clipped: float | None  # share of the gradient that a clip or trust region stops
    kl_ref: float | None  # estimated divergence from the base policy, per token
    grad_norm: float | None  # before clipping
    learning_rate: float
    skipped: bool
    nll: float | None = None  # -log p of a token where it is hidden, before the update; where the objective reads it


class EpochStats(Record):
    """A distillation epoch."""

    round: int
    sequences: int  # completions in groups that carry a signal
    steps: list[StepStats]
    seconds: float
    device: str | None = None  # that did the work
    processes: int = 1  # each with a device of its own
    parent: str | None = None  # SHA-256 of the policy that it began with
    ended_unix_seconds: float  # when the work was done, before the policy was saved

    def applied(self) -> list[StepStats]:
        """Returns the updates that were not skipped."""
        return [step for step in self.steps if not step.skipped]


class Estimate(Record):
    """A mean with its confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f})"

    def signed(self) -> str:
        """Writes a difference and its interval."""
        return f"{self.mean:+.3f} ({self.low:+.3f} to {self.high:+.3f})"

    def percent(self) -> str:
        """Writes a share and its interval in percent."""
        return f"{100 * self.mean:.1f} % ({100 * self.low:.1f} to {100 * self.high:.1f})"

    def points(self) -> str:
        """Writes a difference of shares and its interval in percentage points."""
        return f"{100 * self.mean:+.1f} ({100 * self.low:+.1f} to {100 * self.high:+.1f})"


class DriftStats(Record):
    """How far an approximate engine was from the exact one before a round's rollouts, on the sample of all rounds.

    Nothing was measured where the run had gone back to the exact engine before.
    """

    round: int  # whose rollouts come next
    engine: str  # which the run had come to
    completions: int  # that both engines made
    agreement: Estimate | None  # share of equal tokens, up to the later end of the two; interval over completions
    reward_gap: Estimate | None  # what the approximate engine's mean reward is above the exact one's, paired
    exact_reward: float | None  # mean, of the same completions; None where none was judged of both
    positions: int  # tokens that went through the network's blocks, over all steps
    exact_positions: int  # of the exact engine, for the same completions
    fell_back: bool  # whether the exact engine makes the rollouts from this round on
    reason: str
    seconds: float


class Protocol(Record):
    """How a number came about; two numbers compare only under the same protocol."""

    domain: DomainChoice  # its `rule`: the prompt's form, what counts as right, and what a reward is made of
    sampler: SamplerConfig
    engine: EvaluationEngine = ExactConfig()
    samples: int  # answers to each problem
    pass_at: list[int]
    seed: int  # of the draws; without effect at temperature 0
    problems: int
    prompts_sha256: str  # of ids, prompts, problems and references, in order

    def by_engine(self) -> str:
        """Returns what is to be said after a number that was not made by the exact engine."""
        if isinstance(self.engine, ExactConfig):
            return ""
        options = [f"{name} {value}" for name, value in self.engine.model_dump(exclude={"name"}).items()]
        return f", by the engine {self.engine.name}" + (f" at {', '.join(options)}" if options else "")


class PassAt(Record):
    """The chance that at least one of k answers to a problem is right, or a difference of two such chances."""

    k: int
    share: Estimate  # unbiased (arXiv 2107.03374); interval over problems


class EvalReport(Record):
    """What a policy reaches under a protocol; 95 % intervals over problems."""

    round: int  # rounds of distillation behind the policy
    protocol: Protocol
    solved: Estimate  # share of right answers among those of which is known whether they are
    pass_at: list[PassAt]
    reward: Estimate  # mean of the answers that have one
    parts: dict[str, float | None]  # mean of each part of the reward where it was judged; None if it never was
    judged: float  # share of answers that have a reward
    known: float | None = None  # share of answers of which is known whether they are right; records of before have none
    empty: float  # share of answers without any text
    truncated: float  # share of answers that ran out of tokens before they had the asked form
    warnings: list[str]  # expectations on the samples that failed without stopping the run
    tokens: int
    seconds: float
    scoring_seconds: float = 0.0  # of `seconds`, those in which the answers were judged
    ended_unix_seconds: float = 0.0  # when that was done; 0 in records from before it was kept
    answered_unix_seconds: float | None = None  # when the answers were there; None in records from before it was kept
    device: str | None = None  # that they were made on

    def since(self, moment: float) -> Self:
        """Returns it without the seconds and tokens of work from before a moment, in seconds since 1970."""
        answered = self.ended_unix_seconds if self.answered_unix_seconds is None else self.answered_unix_seconds
        is_answered, is_judged = answered >= moment, self.ended_unix_seconds >= moment
        scoring = self.scoring_seconds * is_judged
        seconds = (self.seconds - self.scoring_seconds) * is_answered + scoring
        worked = {"tokens": self.tokens * is_answered, "seconds": seconds, "scoring_seconds": scoring}
        return self.model_copy(update=worked)


class Concern(Record):
    """Something in a run's numbers that says that it is not learning, or learns in vain."""

    name: str
    since: int  # the round from which on it has been so
    seen: str
    remedy: str

    def said(self) -> tuple[str, str]:
        """Returns two sentences: what there is, and what to try."""
        return f"{self.name.capitalize()}, since round {self.since}: {self.seen}.", f"Try: {self.remedy}."


class Progress(Record):
    """What a run that goes on has recorded: a value for each round, and the validations before the last round."""

    drifts: list[DriftStats] = []  # empty where the configured engine is exact
    rewards: list[RewardStats] = []
    epochs: list[EpochStats] = []
    validations: list[EvalReport] = []

    @classmethod
    def read(cls, files: Sequence[os.PathLike[str]]) -> "Progress":
        """Reads what a run has recorded, which is in one file of `write`, or nothing yet.

        Raises:
            DataError: see `load`.
        """
        return cls.load(Path(files[-1])) if files else cls()

    def since(self, moment: float) -> "Progress":
        """Returns the work from a moment on, in seconds since 1970."""
        taken = sum(reward.rollout_began_unix_seconds < moment for reward in self.rewards)
        return Progress(
            drifts=self.drifts[taken:],
            rewards=[reward.since(moment) for reward in self.rewards],
            epochs=[epoch for epoch in self.epochs if epoch.ended_unix_seconds >= moment],
            validations=[report.since(moment) for report in self.validations],
        )

    def write(self, file: Path) -> None:
        """Writes what a run has recorded, packed; equal records have equal files."""
        file.write_bytes(gzip.compress(self.model_dump_json().encode(), mtime=0))


class Made(Record):
    """What some rounds in a row came to that stayed in one task."""

    engine: RolloutEngine  # which makes the rollouts after them
    drifts: list[DriftStats] = []  # empty where the configured engine is exact
    rewards: list[RewardStats] = []
    epochs: list[EpochStats] = []


class GuardReport(Record):
    """What base and trained policy reach in a domain that must not get worse."""

    name: str
    base: EvalReport
    trained: EvalReport
    difference: Estimate  # of the solved share, trained less base, paired bootstrap over problems
    tolerance: float
    held: bool


class Decision(Record):
    """Whether the trained policy is promoted, and on what evidence."""

    promoted: bool
    reason: str
    solved_difference: Estimate  # trained less base, paired bootstrap over problems
    reward_difference: Estimate
    pass_at_differences: list[PassAt]  # likewise; of problems with k such answers of both policies that `solved` counts
    confidence: float
    guards: list[GuardReport]

    def verdict(self) -> str:
        """Says whether it is promoted, and why."""
        return f"{'promoted' if self.promoted else 'not promoted'}: {self.reason}"


class Series(Record):
    """One run of a comparison, evaluated every few rounds."""

    contestant: str
    learning_rate: float
    seed: int
    reports: list[EvalReport]
    rollout_rewards: list[float]  # mean reward of each round's rollouts
    drifts: list[DriftStats]  # one per round where the configured engine is approximate
    seconds: float  # of rollouts, rewards and distillation


class Tuning(Record):
    """The choice of a contestant's learning rate on the validation problems."""

    contestant: str
    distill: DistillConfig  # with the chosen rate
    series: list[Series]


class Delivery(Record):
    """What became of the way of a run to a tracker or the hub: it is there, or a sentence says why not."""

    to: str
    address: str | None = None  # where it is to be found, or the command that shows it
    problem: str | None = None
    repeat: str | None = None  # the command that tries again

    def lines(self) -> list[str]:
        """Returns it for the last lines of a run."""
        if self.problem is None:
            return [f"published {self.address}"]
        return [f"not sent  {self.to}: {self.problem}", *([f"repeat    {self.repeat}"] if self.repeat else [])]
