"""What stages report about themselves: the typed values that travel to the judge and into the report.

Seconds are wall-clock time of the work itself, without process starts and transfers.
"""

from pydantic import BaseModel, ConfigDict

from tasks.gdsd.config import SamplerConfig, TrainConfig


class Record(BaseModel):
    """Base of all records."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PromptStats(Record):
    """How many problems there are, and what checking them found."""

    train: int
    validation: int
    test: int
    checks: int
    warnings: list[str]
    seconds: float


class PolicyStats(Record):
    """Size of the base policy and what preparing it cost."""

    parameters: int
    seconds: float


class RolloutStats(Record):
    """What a shard of rollouts cost."""

    completions: int
    tokens: int
    seconds: float


class RewardStats(Record):
    """A round's rewards, and what its rollouts and their scoring cost."""

    reward_mean: float
    reward_std: float
    solved: float  # share of the judged completions
    judged: float  # share of completions with a verdict
    frac_zero_std: float  # share of groups without spread, which carry no signal
    warnings: list[str]  # expectations that failed without stopping the run
    completions: int
    tokens: int
    rollout_seconds: float  # summed over shards
    reward_seconds: float


class StepStats(Record):
    """One optimizer update; means over mask pairs and judged completions."""

    loss: float | None  # squared residual; None when it was not finite
    residual_abs: float | None  # |d_theta - target|
    shift_abs: float | None  # |d_theta - d_old|
    grad_norm: float | None  # before clipping
    learning_rate: float
    skipped: bool


class EpochStats(Record):
    """A distillation epoch."""

    round: int
    sequences: int  # completions in groups that carry a signal
    steps: list[StepStats]
    seconds: float


class Estimate(Record):
    """A mean with its confidence interval."""

    mean: float
    low: float
    high: float

    def percent(self) -> str:
        """Writes a share and its interval in percent."""
        return f"{100 * self.mean:.1f} % ({100 * self.low:.1f} to {100 * self.high:.1f})"

    def points(self) -> str:
        """Writes a difference of shares and its interval in percentage points."""
        return f"{100 * self.mean:+.1f} ({100 * self.low:+.1f} to {100 * self.high:+.1f})"


class Protocol(Record):
    """How a number came about; two numbers compare only under the same protocol."""

    domain: str
    sampler: SamplerConfig
    seed: int  # of the draws; without effect at temperature 0
    problems: int
    prompts_sha256: str  # of ids, prompts, problems and references, in order


class EvalReport(Record):
    """What a policy reaches under a protocol; 95 % intervals."""

    round: int  # rounds of distillation behind the policy
    protocol: Protocol
    solved: Estimate  # share of problems solved: Wilson interval
    reward: Estimate  # mean reward: normal interval over problems
    tokens: int
    seconds: float


class Decision(Record):
    """Whether the trained policy is promoted, and on what evidence."""

    promoted: bool
    reason: str
    solved_difference: Estimate  # trained less base, paired bootstrap over problems
    reward_difference: Estimate
    confidence: float


class RunRecord(Record):
    """Everything a training run says of itself."""

    config: TrainConfig
    prompts: PromptStats
    policy: PolicyStats
    rewards: list[RewardStats]  # one per round
    epochs: list[EpochStats]  # one per round
    validations: list[EvalReport]  # every few rounds, on the validation problems
    base: EvalReport  # on the test problems
    trained: EvalReport  # the best round, on the test problems
    decision: Decision

    def stage_seconds(self) -> dict[str, float]:
        """Returns the time spent in each stage, in the order of the pipeline."""
        return {
            "prompts": self.prompts.seconds,
            "policy": self.policy.seconds,
            "rollout": sum(reward.rollout_seconds for reward in self.rewards),
            "reward": sum(reward.reward_seconds for reward in self.rewards),
            "distill": sum(epoch.seconds for epoch in self.epochs),
            "evaluate": sum(report.seconds for report in (self.base, *self.validations, self.trained)),
        }

    def metrics(self) -> list[dict[str, float | int | None]]:
        """Returns one flat row per round, under the metric names of the documentation."""
        validated = {report.round: report for report in self.validations}
        rows = []
        for reward, epoch in zip(self.rewards, self.epochs, strict=True):
            applied = [step for step in epoch.steps if not step.skipped]
            last = applied[-1] if applied else None
            row: dict[str, float | int | None] = {
                "round": epoch.round,
                "reward/mean": reward.reward_mean,
                "reward/std": reward.reward_std,
                "reward/solved": reward.solved,
                "reward/frac_judged": reward.judged,
                "group/frac_zero_std": reward.frac_zero_std,
                "loss/first": applied[0].loss if applied else None,
                "loss/last": last.loss if last else None,
                "loss/residual_abs": last.residual_abs if last else None,
                "policy/shift_abs": last.shift_abs if last else None,
                "grad/norm": last.grad_norm if last else None,
                "update/learning_rate": last.learning_rate if last else None,
                "update/skipped": len(epoch.steps) - len(applied),
                "time/rollout_s": reward.rollout_seconds,
                "time/reward_s": reward.reward_seconds,
                "time/distill_s": epoch.seconds,
                "rollout/tokens_per_s": reward.tokens / reward.rollout_seconds,
            }
            if (report := validated.get(epoch.round)) is not None:
                row |= {"validation/solved": report.solved.mean, "validation/reward": report.reward.mean}
            rows.append(row)
        return rows

    def summary(self, folder: str) -> str:
        """Returns the last lines of a run: what happened, at what cost, and where everything lies."""
        verdict = "promoted" if self.decision.promoted else "not promoted"
        times = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in self.stage_seconds().items())
        return "\n".join(
            [
                "",
                f"base      {self.base.solved.percent()} solved, reward {self.base.reward.mean:.3f}",
                f"trained   {self.trained.solved.percent()} solved, reward {self.trained.reward.mean:.3f}"
                f" (round {self.trained.round} of {len(self.epochs)}, the best on validation)",
                f"gain      {self.decision.solved_difference.points()} points solved",
                f"decision  {verdict}: {self.decision.reason}",
                f"seconds   {times}",
                f"report    {folder}/report.html",
                f"metrics   {folder}/metrics.jsonl",
                f"samples   {folder}/samples.parquet",
                f"policy    {folder}/policy",
            ]
        )
