"""Everything a training run says of itself: metrics by name, time by stage, and the last lines on the console."""

import math
from collections import Counter

from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.evaluate import stopping
from tasks.gdsd.records import (
    CheckStats,
    Decision,
    DriftStats,
    EpochStats,
    Estimate,
    EvalReport,
    PolicyStats,
    Progress,
    PromptStats,
    Record,
    RewardStats,
)
from tasks.gdsd.run.answer import Answer, answer
from tasks.gdsd.run.costs import StageCost, stage_costs
from tasks.gdsd.run.metrics import Metrics, metrics, results, tested
from tasks.gdsd.run.overhead import Overhead, RoundTime, overhead, round_times

SHOWN = 0.05  # of seconds, which are written with one digit


class RunRecord(Record):
    """The record of a run, from which its report is made."""

    config: TrainConfig
    prompts: PromptStats
    check: CheckStats = CheckStats()  # empty in records from before it was kept
    policy: PolicyStats
    drifts: list[DriftStats]  # one per round where the configured engine is approximate
    rewards: list[RewardStats]  # one per round
    epochs: list[EpochStats]  # one per round
    validations: list[EvalReport]  # every few rounds, on the validation problems
    base: EvalReport  # on the test problems
    trained: EvalReport  # the best round, on the test problems
    decision: Decision
    began_unix_seconds: float  # when the run did; what was made before came from the cache

    def evaluations(self) -> list[EvalReport]:
        """Returns every evaluation of the run: on validation and test problems, and of the guards."""
        guards = [report for guard in self.decision.guards for report in (guard.base, guard.trained)]
        return [self.base, *self.validations, self.trained, *guards]

    def answer(self) -> Answer:
        """Says whether the trained policy is better than the base."""
        return answer(self.base, self.trained, self.decision)

    def pass_at(self) -> list[tuple[int, Estimate, Estimate, Estimate]]:
        """Returns (k, base, trained, their difference) for each k above 1, which the solved share is not."""
        tables = (self.base.pass_at, self.trained.pass_at, self.decision.pass_at_differences)
        base, trained, gained = ({found.k: found.share for found in table if found.k > 1} for table in tables)
        return [(k, base[k], trained[k], gain) for k, gain in gained.items()]

    def warnings(self) -> list[str]:
        """Says which expectations failed in how many tables, by stage; and of missing rewards, how many and why."""
        found = [("prompts", self.prompts.warnings), ("check", self.check.warnings)]
        found += [("rollouts", reward.warnings) for reward in self.rewards]
        found += [("answers", report.warnings) for report in self.evaluations()]
        counts = Counter(f"{stage}: {name}" for stage, names in found for name in names if not _is_missing(name))
        said = [f"{name} in {_counted(count, 'table')}" for name, count in counts.items()]
        if rounds := [reward for reward in self.rewards if any(map(_is_missing, reward.warnings))]:
            lost = 1 - sum(reward.judged for reward in rounds) / len(rounds)
            remark = next((f"; of one the domain says: {one.unrewarded!r}" for one in rounds if one.unrewarded), "")
            said.append(f"{lost:.0%} of the rollouts of {_counted(len(rounds), 'round')} have no reward{remark}")
        if tests := [report for report in self.evaluations() if any(map(_is_missing, report.warnings))]:
            lost = 1 - sum(report.judged for report in tests) / len(tests)
            said.append(f"{lost:.0%} of the answers of {_counted(len(tests), 'evaluation')} have no reward")
        return said

    def stage_seconds(self, since: float = -math.inf) -> dict[str, float]:
        """Returns the time spent in each stage, in the order of the pipeline.

        Args:
            since: work that ended before is left out; in seconds since 1970.
        """
        found: dict[str, float] = {}
        for cost in self.stage_costs(since):
            stage = cost.stage.partition(":")[0]
            found[stage] = found.get(stage, 0.0) + cost.seconds
        return found

    def worked(self) -> str:
        """Says what time this run itself spent in each stage, and what its results from the cache once took."""
        own = self.stage_seconds(self.began_unix_seconds)
        cached = sum(self.stage_seconds().values()) - sum(own.values())
        said = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in own.items()) or "none"
        return said if cached < SHOWN else f"{said}; {cached:.1f} came from the cache"

    def progress(self) -> Progress:
        """Returns what the rounds recorded."""
        return Progress(drifts=self.drifts, rewards=self.rewards, epochs=self.epochs, validations=self.validations)

    def stopped(self) -> str | None:
        """Says why the run ended before its last round; None where it did not."""
        if len(self.epochs) == self.config.rounds:
            return None
        best = self.validations[stopping.first_best(self.validations)]
        return (
            f"after {len(self.epochs)} of {self.config.rounds} rounds: no validation was better than that of round "
            f"{best.round} (patience {self.config.patience})"
        )

    def stage_costs(self, since: float = -math.inf) -> list[StageCost]:
        """Returns what each stage cost, in the order of the pipeline, without work that ended before `since`."""
        hardware, evaluations = self.config.hardware, self.evaluations()
        if self.config.rounds_per_task > 1:  # the updates' machine also makes the rollouts
            hardware = hardware.model_copy(update={"rollout": hardware.distill})
        return stage_costs(hardware, self.prompts, self.check, self.policy, self.progress(), evaluations, since)

    def round_times(self) -> list[RoundTime | None]:
        """Returns how long each round took, None where it was not timed."""
        return round_times(self.began_unix_seconds, self.progress())

    def overhead(self) -> Overhead | None:
        """Returns what the rounds took beyond their work, None where none was timed."""
        return overhead(self.round_times())

    def measured(self) -> list[DriftStats]:
        """Returns the rounds before which an approximate engine was compared with the exact one."""
        return [drift for drift in self.drifts if drift.agreement is not None]

    def fall_back(self) -> DriftStats | None:
        """Returns the round in which the run went back to the exact engine, None where it did not."""
        return next((drift for drift in self.drifts if drift.fell_back), None)

    def drift(self) -> str | None:
        """Says in a line what an approximate engine did to the rollouts; None where the exact one was asked for."""
        if not self.drifts:
            return None
        name, rounds = self.drifts[0].engine, self.measured()
        if (end := self.fall_back()) is not None:
            return f"exact from round {end.round} on, in place of {name}: {end.reason}"
        agreements = [drift.agreement.mean for drift in rounds if drift.agreement is not None]
        gaps = [abs(drift.reward_gap.mean) for drift in rounds if drift.reward_gap is not None]
        computed = sum(drift.positions for drift in rounds) / sum(drift.exact_positions for drift in rounds)
        return (
            f"{name}: at least {min(agreements):.1%} of the tokens are the exact engine's, the mean reward is at most "
            f"{max(gaps, default=0.0):.3f} off, for {computed:.0%} of the positions"
        )

    def metrics(self) -> list[Metrics]:
        """Returns flat rows under the metric names of the documentation: the base, each round, the trained policy."""
        rounds = metrics(self.config.hardware, self.progress(), self.began_unix_seconds)
        return [tested("base", self.base), *rounds, {**tested("test", self.trained), **self.results()}]

    def results(self) -> dict[str, float]:
        """Returns what base and trained policy reach on the test problems, and at what cost."""
        return results(self.base, self.trained, self.decision, sum(self.stage_seconds().values()))

    def summary(self, folder: str) -> str:
        """Returns the last lines of a run: what happened, at what cost, and where everything lies."""
        from tasks.gdsd.run import health  # not for `--help`, since it imports numpy

        return "\n".join(
            [
                "",
                f"base      {self.base.solved.percent()} solved, reward {self.base.reward.mean:.3f}",
                f"trained   {self.trained.solved.percent()} solved, reward {self.trained.reward.mean:.3f}"
                f" (round {self.trained.round} of {len(self.epochs)}, the best on validation)",
                *([f"stopped   {why}"] if (why := self.stopped()) is not None else []),
                f"result    {self.answer().words}",
                f"gain      {self.decision.solved_difference.points()} points solved, "
                f"{self.decision.reward_difference.signed()} reward{self.base.protocol.by_engine()}",
                *(f"{f'pass@{k}':<9} {gain.points()} points" for k, _, _, gain in self.pass_at()),
                *([f"engine    {found}"] if (found := self.drift()) is not None else []),
                *(
                    f"guard     {guard.name} {'holds' if guard.held else 'fails'}: {guard.difference.points()} points "
                    f"solved, {100 * guard.tolerance:g} tolerated"
                    for guard in self.decision.guards
                ),
                f"decision  {self.decision.verdict()}",
                *(f"concern   {' '.join(concern.said())}" for concern in health.concerns(self.progress())),
                f"seconds   {self.worked()}",
                *([f"overhead  {beyond}"] if (beyond := self.overhead()) is not None else []),
                f"report    {folder}/report.html",
                f"metrics   {folder}/metrics.jsonl",
                f"samples   {folder}/samples.parquet",
                f"policy    {folder}/policy",
            ]
        )


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _is_missing(warning: str) -> bool:
    """Whether it is the warning of missing rewards, which is said in words."""
    return warning.endswith(".reward: expect_column_values_to_not_be_null")
