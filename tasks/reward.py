"""Stage `reward`: verdicts and advantages of a round's completions, checked before anything is trained on them."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from flytekit import Deck
from flytekit.types.file import FlyteFile

from tasks.flyte.local import new_folder
from tasks.flyte.stage import cpu_task
from tasks.flyte.types import Table
from tasks.gdsd.config.train import RewardConfig
from tasks.gdsd.domains import DomainChoice
from tasks.gdsd.records import RewardStats
from tasks.rollout import RolloutShard

if TYPE_CHECKING:
    from tasks.gdsd.prompts.expectations import QualityReport


class Rewarded(NamedTuple):
    table: Table
    stats: RewardStats


@cpu_task(hours=2, retries=3, ignored=("domain",), deck=True)
def reward_rollouts(
    shards: list[RolloutShard], domain: DomainChoice, rule: DomainChoice, group_size: int, config: RewardConfig
) -> Rewarded:
    """Verifies a round's completions and turns the rewards into advantages.

    Args:
        rule: of the domain, by which the cache knows verdicts.

    Raises:
        QualityError: a critical expectation on the rewarded table failed; the Deck shows all of them.
    """
    from tasks.gdsd import tables
    from tasks.gdsd.reward import scoring

    merged = tables.join(tables.read(Path(os.fspath(shard.table)), tables.ROLLOUTS) for shard in shards)
    table, stats = scoring.score(merged, [shard.stats for shard in shards], domain, group_size, config, _show)
    file = tables.write(table, tables.REWARDED, new_folder("rewarded") / "rewarded.parquet")
    return Rewarded(FlyteFile(str(file)), stats)


def _show(report: "QualityReport") -> None:
    Deck("Quality", report.html())
    Deck.publish()
