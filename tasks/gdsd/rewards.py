"""Scoring rollouts: the domain's verdict on each completion, and its advantage within its group."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch

from tasks.gdsd import tables
from tasks.gdsd.advantages import leave_one_out
from tasks.gdsd.domains import DOMAINS
from tasks.gdsd.errors import DataError
from tasks.gdsd.records import RewardStats, RolloutStats


def score(rollouts: pa.Table, domain_name: str, group_size: int, scale_by_std: bool) -> pa.Table:
    """Adds reward, verdict and advantage to a round's rollouts, which are sorted by prompt and sample.

    Raises:
        DataError: a group does not have `group_size` completions.
    """
    domain = DOMAINS[domain_name]
    rows = rollouts.to_pylist()
    prompts = list(dict.fromkeys(row["prompt_id"] for row in rows))
    expected = [(prompt, sample) for prompt in prompts for sample in range(group_size)]
    if [(row["prompt_id"], row["sample"]) for row in rows] != expected:
        raise DataError(
            f"{len(rows)} rollouts of {len(prompts)} prompts are not groups of {group_size}, with each sample once: "
            "completions are missing or doubled"
        )
    verdicts = [domain.verify(row["problem"], row["reference"], row["completion"]) for row in rows]
    rewards = torch.tensor([torch.nan if verdict.reward is None else verdict.reward for verdict in verdicts])
    advantages = leave_one_out(rewards.view(-1, group_size), scale_by_std).view(-1)
    table = rollouts
    for name, values in (
        ("reward", [verdict.reward for verdict in verdicts]),
        ("solved", [verdict.solved for verdict in verdicts]),
        ("advantage", [None if value != value else value for value in advantages.tolist()]),
    ):
        table = table.append_column(tables.SCORED.field(name), pa.array(values, tables.SCORED.field(name).type))
    return table


def summarise(
    scored: pa.Table, group_size: int, shards: Sequence[RolloutStats], warnings: list[str], seconds: float
) -> RewardStats:
    """Describes a round's rewards; groups without a verdict count as groups without spread."""
    rewards = scored["reward"].drop_null().to_numpy()
    solved = scored["solved"].drop_null().to_pylist()
    advantages = scored["advantage"].fill_null(0.0).to_numpy().reshape(-1, group_size)
    return RewardStats(
        reward_mean=float(rewards.mean()) if len(rewards) else 0.0,
        reward_std=float(rewards.std()) if len(rewards) else 0.0,
        solved=float(np.mean(solved)) if solved else 0.0,
        judged=len(rewards) / scored.num_rows,
        frac_zero_std=float((abs(advantages).max(1) == 0).mean()),
        warnings=warnings,
        completions=sum(shard.completions for shard in shards),
        tokens=sum(shard.tokens for shard in shards),
        rollout_seconds=sum(shard.seconds for shard in shards),
        reward_seconds=seconds,
    )
