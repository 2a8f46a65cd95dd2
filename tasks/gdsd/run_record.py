"""Everything a training run says of itself: metrics by name, time by stage, and the last lines on the console."""

from tasks.gdsd.config import TrainConfig
from tasks.gdsd.records import Decision, EpochStats, EvalReport, PolicyStats, PromptStats, Record, RewardStats


class RunRecord(Record):
    """The record of a run, from which its report is made."""

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
                **{f"reward/part/{name}": value for name, value in reward.parts.items()},
                "group/frac_zero_std": reward.frac_zero_std,
                "loss/first": applied[0].loss if applied else None,
                "loss/last": last.loss if last else None,
                "loss/residual_abs": last.residual_abs if last else None,
                "policy/shift_abs": last.shift_abs if last else None,
                "clip/frac": last.clipped if last else None,
                "kl/ref": last.kl_ref if last else None,
                "grad/norm": last.grad_norm if last else None,
                "update/learning_rate": last.learning_rate if last else None,
                "update/skipped": len(epoch.steps) - len(applied),
                "time/rollout_s": reward.rollout_seconds,
                "time/reward_s": reward.reward_seconds,
                "time/distill_s": epoch.seconds,
                "rollout/frac_empty": reward.empty,
                "rollout/frac_truncated": reward.truncated,
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
