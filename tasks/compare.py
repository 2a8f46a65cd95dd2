"""Stage `compare`: chooses the learning rate of each contestant, and writes the table and figure of all runs."""

import logging
from typing import NamedTuple

from flytekit import Deck
from flytekit.types.directory import FlyteDirectory
from pydantic import BaseModel

from tasks.flyte.local import new_folder
from tasks.flyte.stage import cpu_task
from tasks.flyte.types import ProgressFile
from tasks.gdsd.config.compare import CompareConfig
from tasks.gdsd.config.train import DistillConfig
from tasks.gdsd.records import EvalReport, Progress, Series, Tuning

logger = logging.getLogger(__name__)


class Chosen(NamedTuple):
    tuning: Tuning
    distill: DistillConfig


class CompareResult(BaseModel):
    """What a comparison came to; printed at its end."""

    summary: str
    files: dict[str, str]  # what each file of the folder is: its name
    folder: FlyteDirectory

    def __str__(self) -> str:
        return "\n".join([self.summary, *(f"{what:<9} {self.folder.path}/{name}" for what, name in self.files.items())])


@cpu_task()
def record_series(
    contestant: str,
    distill: DistillConfig,
    seed: int,
    progress: list[ProgressFile],
    validation: list[EvalReport],
) -> Series:
    """Joins what the stages of a run say into one curve."""
    run = Progress.read(progress)
    seconds = sum(reward.rollout_seconds + reward.reward_seconds for reward in run.rewards)
    reports = [*run.validations, *validation]
    series = Series(
        contestant=contestant,
        learning_rate=distill.learning_rate,
        seed=seed,
        reports=reports,
        rollout_rewards=[reward.reward_mean for reward in run.rewards],
        drifts=run.drifts,
        seconds=seconds + sum(epoch.seconds for epoch in run.epochs),
    )
    rate, reward = distill.learning_rate, reports[-1].reward.mean
    logger.info("%s at learning rate %g, seed %d: reward %.3f", contestant, rate, seed, reward)
    return series


@cpu_task()
def choose_learning_rate(contestant: str, distill: DistillConfig, series: list[Series]) -> Chosen:
    """Gives a contestant the learning rate whose runs end highest on the validation problems."""
    from tasks.gdsd.run import comparison

    tuned = distill.model_copy(update={"learning_rate": comparison.best_learning_rate(series)})
    logger.info("%s: learning rate %g chosen", contestant, tuned.learning_rate)
    return Chosen(Tuning(contestant=contestant, distill=tuned, series=series), tuned)


@cpu_task(cached=False, deck=True)
def report_comparison(
    config: CompareConfig, base: EvalReport, tunings: list[Tuning], series: list[Series]
) -> CompareResult:
    """Writes the comparison's folder: report, figure, numbers, table and configuration."""
    from tasks.gdsd.report import comparison as comparison_report
    from tasks.gdsd.run.comparison import ComparisonRecord

    record = ComparisonRecord(config=config, base=base, tunings=tunings, series=series)
    folder = new_folder(f"compare-{config.name}")
    page = comparison_report.write(folder, record)
    Deck("Comparison", page)
    return CompareResult(
        summary=comparison_report.summary(record), files=comparison_report.FILES, folder=FlyteDirectory(str(folder))
    )
