"""Rollouts: the way work is cut changes no token."""

from itertools import product
from pathlib import Path

import pyarrow as pa
import pytest

from tasks.gdsd import tables
from tasks.gdsd.config.sampler import SamplerConfig
from tasks.gdsd.config.train import RolloutConfig
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.errors import DataError
from tasks.gdsd.rollout import shard as rollouts

GROUP = 3
CONFIG = RolloutConfig(
    prompts_per_round=4,
    group_size=GROUP,
    sampler=SamplerConfig(length=16, block_length=8, steps_per_block=2, temperature=1.0),
)
Rows = list[dict[str, object]]


def shard_rows(
    denoiser: Denoiser,
    train: pa.Table,
    shard: int = 0,
    shards: int = 1,
    batch_size: int = 64,
    round_index: int = 2,
    seed: int = 0,
    config: RolloutConfig = CONFIG,
) -> Rows:
    rows, stats = rollouts.generate_shard(
        denoiser,
        train,
        config.sampler,
        config.engine,
        prompts_per_round=config.prompts_per_round,
        group_size=config.group_size,
        batch_size=batch_size,
        round_index=round_index,
        seed=seed,
        shard=shard,
        shards=shards,
    )
    assert stats.completions == len(rows) and stats.tokens == config.sampler.length * len(rows) and stats.seconds > 0
    return rows


def merged(folder: Path, parts: list[Rows]) -> pa.Table:
    folder.mkdir()
    files = [tables.write(rows, tables.ROLLOUTS, folder / f"{index}.parquet") for index, rows in enumerate(parts)]
    return tables.join(tables.read(file, tables.ROLLOUTS) for file in files)


def test_shards_and_batches_change_no_token(denoiser: Denoiser, puzzles: pa.Table, tmp_path: Path) -> None:
    """If it fails, a run on more machines, or with less memory, is another experiment."""
    expected = merged(tmp_path / "whole", [shard_rows(denoiser, puzzles)])
    order = list(zip(expected["prompt_id"].to_pylist(), expected["sample"].to_pylist(), strict=True))
    assert order == sorted(order) and len(set(order)) == expected.num_rows == 4 * GROUP
    assert expected["prompt_id"].num_chunks == 1
    for shards, batch_size in product((1, 2, 3, 4), (1, 5)):
        parts = [shard_rows(denoiser, puzzles, shard, shards, batch_size) for shard in range(shards)]
        for name, some in (("forward", parts), ("backward", parts[::-1])):  # whichever machine finished first
            found = merged(tmp_path / f"{name}-{shards}-{batch_size}", some)
            assert found.drop("uncertainty").equals(expected.drop("uncertainty")), (shards, batch_size, name)


def test_samples_are_numbered_numerically(tmp_path: Path) -> None:
    """If it fails, sample 10 comes before sample 2, and groups are in another order than their masks."""
    row = {
        "prompt_id": "a",
        "problem": "p",
        "reference": "r",
        "prompt_ids": [1],
        "completion_ids": [1],
        "unmasked_at": [0],
        "uncertainty": [0.5],
        "ended": False,
        "engine": "exact",
    }
    rows: Rows = [row | {"sample": sample, "completion": str(sample)} for sample in (10, 2, 11, 0)]
    assert merged(tmp_path / "m", [rows])["sample"].to_pylist() == [0, 2, 10, 11]


def test_rows_say_what_was_asked_and_answered(denoiser: Denoiser, puzzles: pa.Table) -> None:
    """If it fails, an answer is verified against another problem's solution."""
    known = {row["id"]: row for row in puzzles.to_pylist()}
    rows = shard_rows(denoiser, puzzles)
    assert len({row["prompt_id"] for row in rows}) == 4
    for row in rows:
        problem = known[row["prompt_id"]]
        assert (row["problem"], row["reference"]) == (problem["problem"], problem["reference"])
        assert row["prompt_ids"] == denoiser.encode(problem["prompt"])
        ids = row["completion_ids"]
        assert isinstance(ids, list) and len(ids) == 16 and row["completion"] == denoiser.decode(ids)
        assert row["ended"] == (denoiser.end_id in ids)
        # Two blocks of 8 tokens, two steps each, 4 tokens per step.
        assert isinstance(row["unmasked_at"], list)
        assert sorted(row["unmasked_at"][:8]) == [0] * 4 + [1] * 4
        assert sorted(row["unmasked_at"][8:]) == [2] * 4 + [3] * 4


def test_samples_rounds_and_seeds_differ(denoiser: Denoiser, puzzles: pa.Table) -> None:
    """If it fails, a group holds one answer many times, or rounds repeat each other: nothing is left to learn from."""

    def answers(rows: Rows) -> dict[object, set[str]]:
        found: dict[object, set[str]] = {}
        for row in rows:
            found.setdefault(row["prompt_id"], set()).add(str(row["completion_ids"]))
        return found

    first = answers(shard_rows(denoiser, puzzles))
    assert all(len(group) == GROUP for group in first.values())
    for other in (shard_rows(denoiser, puzzles, round_index=3), shard_rows(denoiser, puzzles, seed=1)):
        for prompt, group in answers(other).items():
            assert group.isdisjoint(first.get(prompt, set()))


def test_a_table_of_other_columns_is_refused(puzzles: pa.Table, tmp_path: Path) -> None:
    """If it fails, a table of prompts is taken for rollouts."""
    other = tables.write(puzzles, tables.PROMPTS, tmp_path / "other.parquet")
    with pytest.raises(DataError, match=other.name):
        tables.read(other, tables.ROLLOUTS)


def test_rows_without_a_required_value_are_refused(denoiser: Denoiser, puzzles: pa.Table, tmp_path: Path) -> None:
    """If it fails, a missing value ends in a stack trace of Arrow, and leaves half a file."""
    rows = shard_rows(denoiser, puzzles)
    rows[3]["completion"] = None
    with pytest.raises(DataError, match="completion"):
        tables.write(rows, tables.ROLLOUTS, tmp_path / "rollouts.parquet")
    assert not (tmp_path / "rollouts.parquet").exists()


@pytest.mark.whole
def test_the_default_experiment_does_not_depend_on_shards_and_batches() -> None:
    """If it fails, the number of machines, or their memory, decides which policy is trained."""
    from tasks.gdsd.config.policy import WarmStartConfig
    from tasks.gdsd.config.train import TrainConfig
    from tasks.gdsd.denoiser import tiny
    from tasks.gdsd.distill import warm_start
    from tasks.gdsd.prompts import problems

    config = TrainConfig()
    train = problems.make_prompts(config.prompts)["train"]
    policy = tiny.build(config.policy.tiny, config.policy.seed)
    warm_start.warm_start(policy, train, WarmStartConfig(steps=10), config.rollout.sampler.length, 0)

    whole = shard_rows(policy, train, batch_size=config.rollout.batch_size, config=config.rollout)
    assert len(whole) == config.rollout.prompts_per_round * config.rollout.group_size
    parts = [row for shard in range(5) for row in shard_rows(policy, train, shard, 5, 100, config=config.rollout)]
    assert {(row["prompt_id"], row["sample"]): row for row in parts} == {
        (row["prompt_id"], row["sample"]): row for row in whole
    }
