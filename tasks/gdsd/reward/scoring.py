"""The whole stage: verdicts and advantages of a round's completions, checked before anything is trained on them."""

import time
from collections.abc import Callable, Sequence

import pyarrow as pa

from tasks.gdsd.config.train import RewardConfig
from tasks.gdsd.domains import DomainChoice
from tasks.gdsd.prompts.expectations import QualityReport
from tasks.gdsd.records import RewardStats, RolloutStats
from tasks.gdsd.reward import quality, rewards


def score(
    rollouts: pa.Table,
    shards: Sequence[RolloutStats],
    domain: DomainChoice,
    group_size: int,
    config: RewardConfig,
    show: Callable[[QualityReport], None],
) -> tuple[pa.Table, RewardStats]:
    """Returns a round's rollouts with verdicts and advantages, and what they show.

    Args:
        rollouts: of all shards, sorted by prompt and sample.
        shards: what each cost.
        show: is given what was found in the table, also where it is refused.

    Raises:
        DataError: the verdicts are not what the domain declares, groups are not whole, or nothing could be judged.
        QualityError: a critical expectation on the rewarded table failed.
    """
    began = time.monotonic()
    table = rewards.reward(rollouts, domain, group_size, config.scale_by_std)
    report = quality.check_rewarded(table, group_size, domain)
    show(report)
    report.require()
    warnings = [f"{finding.where}: {finding.expectation}" for finding in report.warnings]
    seconds = time.monotonic() - began
    return table, rewards.summarise(table, domain, group_size, shards, warnings, seconds)
