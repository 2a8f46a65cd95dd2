"""Compares objectives: chooses a learning rate for each, and sums up their runs over several seeds."""

import statistics
from collections.abc import Sequence
from itertools import pairwise

import pyarrow as pa
from scipy.stats import t as student

from tasks.gdsd import tables
from tasks.gdsd.config.compare import CompareConfig
from tasks.gdsd.records import Estimate, EvalReport, Record, Series, Tuning

CONFIDENCE = 0.95


class Standing(Record):
    """What a contestant's runs amount to on the test problems, over seeds.

    Curves are of the mean reward, which is what is trained; in Sudoku that is the share of empty cells filled right.
    """

    contestant: str
    learning_rate: float
    reward: Estimate  # after the last round: mean and Student t interval over seeds
    solved: Estimate  # share of problems, likewise
    area: Estimate  # mean height of the curve from round 0 on, likewise
    worst_drop: float  # the deepest fall of any seed's curve below its best point so far
    final_drop: float  # the deepest fall of any seed's last point below its best
    seconds: float  # of rollouts, rewards and distillation, mean over seeds


class ComparisonRecord(Record):
    """A whole comparison, from which its report is made."""

    config: CompareConfig
    base: EvalReport  # on the test problems
    tunings: list[Tuning]
    series: list[Series]  # on the test problems

    def standings(self) -> list[Standing]:
        """Returns one row per contestant, the highest final reward first."""
        found = [self._standing(name) for name in self.config.contestants]
        return sorted(found, key=lambda standing: (-standing.reward.mean, -standing.area.mean))

    def runs(self, contestant: str) -> list[Series]:
        """Returns a contestant's runs, by seed."""
        return [series for series in self.series if series.contestant == contestant]

    def curve(self, series: Series) -> list[tuple[int, float]]:
        """Returns (round, mean reward) of a run, from the base on."""
        return [(0, self.base.reward.mean), *((report.round, report.reward.mean) for report in series.reports)]

    def _standing(self, contestant: str) -> Standing:
        runs = self.runs(contestant)
        curves = [self.curve(series) for series in runs]
        return Standing(
            contestant=contestant,
            learning_rate=runs[0].learning_rate,
            reward=over_seeds([curve[-1][1] for curve in curves]),
            solved=over_seeds([series.reports[-1].solved.mean for series in runs]),
            area=over_seeds([area(curve) for curve in curves]),
            worst_drop=max(map(worst_drop, curves)),
            final_drop=max(max(height for _, height in curve) - curve[-1][1] for curve in curves),
            seconds=statistics.fmean(series.seconds for series in runs),
        )


def best_learning_rate(series: Sequence[Series]) -> float:
    """Returns the learning rate whose runs end highest: by the mean over seeds of the last point's reward.

    The mean of all points breaks ties, then the smaller rate.
    """

    def merit(rate: float) -> tuple[float, float, float]:
        runs = [[report.reward.mean for report in run.reports] for run in series if run.learning_rate == rate]
        means = [statistics.fmean(run) for run in runs]
        return statistics.fmean(run[-1] for run in runs), statistics.fmean(means), -rate

    return max({run.learning_rate for run in series}, key=merit)


def over_seeds(values: Sequence[float]) -> Estimate:
    """Returns the mean over two seeds or more with its Student t interval."""
    mean = statistics.fmean(values)
    quantile = float(student.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    half = quantile * statistics.stdev(values) / len(values) ** 0.5
    return Estimate(mean=mean, low=mean - half, high=mean + half)


def area(curve: Sequence[tuple[int, float]]) -> float:
    """Returns the mean height of a curve over its rounds, by trapezoids."""
    whole = sum((right - left) * (low + high) / 2 for (left, low), (right, high) in pairwise(curve))
    return whole / (curve[-1][0] - curve[0][0])


def worst_drop(curve: Sequence[tuple[int, float]]) -> float:
    """Returns the deepest fall of a curve below its best point so far."""
    best, drop = curve[0][1], 0.0
    for _, height in curve:
        best = max(best, height)
        drop = max(drop, best - height)
    return drop


def points(record: ComparisonRecord) -> pa.Table:
    """Returns every evaluation of every run as rows of `tables.CURVES`: the tuning's on validation, others on test."""
    tuned = [("validation", tuning.series) for tuning in record.tunings]
    rows: list[dict[str, object]] = [
        {
            "contestant": series.contestant,
            "learning_rate": series.learning_rate,
            "seed": series.seed,
            "split": split,
            "round": report.round,
            "problems": report.protocol.problems,
            "solved": report.solved.mean,
            "reward": report.reward.mean,
            "rollout_reward": series.rollout_rewards[report.round - 1],
            "seconds": series.seconds,
        }
        for split, runs in (*tuned, ("test", record.series))
        for series in runs
        for report in series.reports
    ]
    return pa.Table.from_pylist(rows, tables.CURVES)
