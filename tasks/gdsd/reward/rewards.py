"""Rewards of rollouts: the domain's verdict on each completion, and the advantage of each within its group."""

import io
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.gdsd import tables
from tasks.gdsd.domains import Answer, DomainChoice, make, require_as_imported
from tasks.gdsd.errors import DataError
from tasks.gdsd.records import RewardStats, RolloutStats
from tasks.gdsd.reward.advantages import leave_one_out
from tasks.gdsd.reward.verdicts import require_verdicts

QUOTED = 300  # characters of a remark in a round's record
JUDGED = 0.9  # least share of answers with a reward, below which there is a warning

logger = logging.getLogger(__name__)


def verify(answers: pa.Table, choice: DomainChoice) -> pa.Table:
    """Adds the verdicts: the reward's parts, the reward, which is their weighted sum, whether it is solved, and why.

    The reward is null where a part of some weight is.

    Raises:
        DataError: the domain raised an error, or its verdicts are not what it declares.
    """
    weights = choice.weights
    columns = [answers[name].to_pylist() for name in ("problem", "reference", "completion")]
    items = [Answer(*item) for item in zip(*columns, strict=True)]
    require_as_imported(choice)
    with redirect_stdout(io.StringIO()) as printed:
        verdicts = require_verdicts(make(choice), items, choice.name)
    if printed.getvalue():
        _tell_prints(choice.name)
    added: dict[str, list[float | None] | list[bool | None] | list[str | None]] = {
        "reward": [weigh(verdict.parts, weights) for verdict in verdicts],
        "solved": [verdict.solved for verdict in verdicts],
        "remark": [verdict.remark for verdict in verdicts],
    }
    added |= {tables.PART + part: [verdict.parts[part] for verdict in verdicts] for part in sorted(weights)}
    schema = tables.complete(tables.REWARDED, added)
    for name, values in added.items():
        answers = answers.append_column(schema.field(name), pa.array(values, schema.field(name).type))
    return answers


def weigh(parts: Mapping[str, float | None], weights: Mapping[str, float]) -> float | None:
    """Returns the reward of a verdict's parts; None where one of some weight was not judged."""
    total = 0.0
    for name, weight in weights.items():
        if weight:
            value = parts[name]
            if value is None:
                return None
            total += weight * value
    return total


def unrewarded(judged: pa.Table, choice: DomainChoice) -> str:
    """Says why answers have no reward: which parts are None, what the domain remarks of one, and what to do."""
    missing = {part: judged[tables.PART + part].null_count for part, weight in choice.weights.items() if weight}
    parts = [f"the part {part} is None in {number}" for part, number in missing.items() if number]
    said = next((f"; of one it says: {remark:.300}" for remark in judged["remark"].to_pylist() if remark), "")
    return (
        f"{', '.join(parts)} of them{said}. {make(choice).remedies.unrewarded}; mend a service or a limit that is the "
        "cause"
    )


@cache
def _tell_prints(name: str) -> None:
    """Says once that a domain of a person's own prints, which would flood the console in each round."""
    logger.warning("domain %r prints while it verifies; what it prints is not shown", name)


def reward(rollouts: pa.Table, choice: DomainChoice, group_size: int, scale_by_std: bool) -> pa.Table:
    """Adds verdicts and advantages to a round's rollouts, which are sorted by prompt and sample.

    Raises:
        DataError: a group does not have `group_size` completions, or none of them was judged.
    """
    names, samples = (rollouts[name].to_pylist() for name in ("prompt_id", "sample"))
    rows = list(zip(names, samples, strict=True))
    require_groups(rows, group_size)
    table = verify(rollouts, choice)
    if rows and table["reward"].null_count == len(rows):
        raise DataError(
            f"domain {choice.name!r} could judge none of {len(rows)} rollouts, so there is nothing to train on: "
            f"{unrewarded(table, choice)}"
        )
    rewards = table["reward"].fill_null(np.nan).to_numpy().reshape(-1, group_size)
    advantages = leave_one_out(rewards, scale_by_std).reshape(-1)
    place = table.column_names.index("remark") + 1
    return table.add_column(place, tables.REWARDED.field("advantage"), pa.array(advantages, from_pandas=True))


def require_groups(
    rollouts: list[tuple[str, int]],  # prompt and sample of each
    group_size: int,
) -> None:
    """Refuses rollouts that are not whole groups, one after the other.

    Raises:
        DataError: a group does not have each of `group_size` samples once.
    """
    prompts = list(dict.fromkeys(prompt for prompt, _ in rollouts))
    if rollouts != [(prompt, sample) for prompt in prompts for sample in range(group_size)]:
        raise DataError(
            f"{len(rollouts)} rollouts of {len(prompts)} prompts are not groups of {group_size}, with each sample "
            "once: completions are missing or doubled"
        )


def empty(judged: pa.Table) -> list[bool]:
    """Says of each completion whether it has no text."""
    return [not text.strip() for text in judged["completion"].to_pylist()]


def truncated(judged: pa.Table, choice: DomainChoice) -> list[bool]:
    """Says of each completion whether it ran out of tokens: no end token, and not the form that was asked for.

    Where answers fill the length, none does.
    """
    if make(choice).fills_length:
        return [False] * judged.num_rows
    ended, form = judged["ended"].to_pylist(), tables.PART + "format"
    formed = judged[form].to_pylist() if form in judged.column_names else [None] * len(ended)
    return [not own and not right for own, right in zip(ended, formed, strict=True)]


def part_means(judged: pa.Table) -> dict[str, float | None]:
    """Returns the mean of each part of the reward over the completions in which it was judged, None if in none."""
    names = [name for name in judged.column_names if name.startswith(tables.PART)]
    return {name.removeprefix(tables.PART): pc.mean(judged[name]).as_py() for name in names}


def union(intervals: Sequence[tuple[float, float]]) -> float:
    """Returns the length of what some intervals cover together."""
    covered, reached = 0.0, float("-inf")
    for begin, end in sorted(intervals):
        covered += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return covered


def summarise(
    rewarded: pa.Table,
    choice: DomainChoice,
    group_size: int,
    shards: Sequence[RolloutStats],
    warnings: list[str],
    seconds: float,
) -> RewardStats:
    """Describes a round's rewards; groups without a verdict count as groups without spread."""
    rewards = rewarded["reward"].drop_null().to_numpy()
    solved = rewarded["solved"].drop_null().to_pylist()
    advantages = rewarded["advantage"].fill_null(0.0).to_numpy().reshape(-1, group_size)
    completions = rewarded["completion"].to_pylist()
    remarks = rewarded.filter(pc.is_null(rewarded["reward"]))["remark"].drop_null().to_pylist()
    groups = [completions[first : first + group_size] for first in range(0, len(completions), group_size)]
    at_work = [(shard.ended_unix_seconds - shard.seconds, shard.ended_unix_seconds) for shard in shards]
    return RewardStats(
        reward_mean=float(rewards.mean()),
        reward_std=float(rewards.std()),
        solved=float(np.mean(solved)) if solved else None,
        judged=len(rewards) / rewarded.num_rows,
        frac_zero_std=float((abs(advantages).max(1) == 0).mean()),
        parts=part_means(rewarded),
        empty=float(np.mean(empty(rewarded))),
        truncated=float(np.mean(truncated(rewarded, choice))),
        distinct=sum(len(set(group)) for group in groups) / len(completions),
        unrewarded=remarks[0][:QUOTED] if remarks else None,
        warnings=warnings,
        completions=sum(shard.completions for shard in shards),
        tokens=sum(shard.tokens for shard in shards),
        engine=", ".join(rewarded["engine"].unique().to_pylist()),
        device=", ".join(sorted({shard.device for shard in shards if shard.device})) or None,
        rollout_seconds=sum(shard.seconds for shard in shards),
        rollout_busy_seconds=union(at_work),
        rollout_began_unix_seconds=min(began for began, _ in at_work),
        reward_seconds=seconds,
        ended_unix_seconds=time.time(),
    )
