"""Rounds of a few micro policies, as stages from file to file and in memory, for tests."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import torch

from tasks.gdsd import tables
from tasks.gdsd.config.policy import AdapterConfig
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.denoiser import checkpoint
from tasks.gdsd.denoiser.load import load_folder
from tasks.gdsd.distill.epoch import Epoch
from tasks.gdsd.distill.epoch import train as train_epoch
from tasks.gdsd.evaluate import drift
from tasks.gdsd.files import digest
from tasks.gdsd.prompts.problems import make_prompts
from tasks.gdsd.records import DriftStats, EpochStats, Made, RewardStats
from tasks.gdsd.resident.rounds import Rounds, train
from tasks.gdsd.resident.state import FILE
from tasks.gdsd.reward import scoring
from tasks.gdsd.rollout import shard
from tests.gdsd.conftest import build
from tests.gdsd.official import WRITERS

CPU = torch.device("cpu")
ROUNDS = 2


@dataclass(frozen=True)
class Case:
    """What rounds are of."""

    objective: dict[str, object] = field(default_factory=lambda: {"name": "gdsd"})
    adapter: bool = False
    model: str | None = None  # a published family
    engine: dict[str, object] = field(default_factory=lambda: {"name": "exact"})
    shards: int = 1
    compute: dict[str, object] = field(default_factory=dict)
    ema_decay: float = 0.7

    def config(self) -> TrainConfig:
        sampler = {"block_length": 8, "steps_per_block": 4}
        rollout = {"prompts_per_round": 4, "group_size": 4, "shards": self.shards, "sampler": sampler}
        distill = {"inner_steps": 2, "objective": self.objective, "compute": self.compute, "ema_decay": self.ema_decay}
        values = {
            "seed": 7,
            "rounds_per_task": ROUNDS,
            "keep_rollouts": [2],
            "prompts": {"train_size": 16, "validation_size": 4, "test_size": 4},
            "rollout": {**rollout, "engine": self.engine},
            "distill": distill,
        }
        return TrainConfig.model_validate_json(json.dumps(values))


def told(*_: object) -> None:
    """Nobody listens."""


def prepare(folder: Path, case: Case) -> Rounds:
    """Writes what rounds read into a folder."""
    folder.mkdir()
    config = case.config()
    if case.model is None:
        denoiser = build()
    else:
        WRITERS[case.model](folder / "official")
        denoiser = load_folder(folder / "official", case.model, CPU)
    if case.adapter:
        denoiser.attach_adapter(AdapterConfig(rank=4, alpha=8.0), 0)
    base = checkpoint.save(folder / "base", checkpoint.base_state(denoiser))
    problems = tables.write(make_prompts(config.prompts, [])["train"], tables.PROMPTS, folder / "train.parquet")
    needs_base = config.distill.objective.needs_reference and not case.adapter
    return Rounds(
        policy=base,
        base=base if needs_base else None,
        train=problems,
        engine=config.rollout.engine.without_limits(),
        config=config.resident(range(ROUNDS)),
        first=0,
        end=ROUNDS,
        key="key",
        work=folder / "work",
        file=folder / "kept" / FILE,
        evidence=folder / "evidence",
        tell=told,
    )


@dataclass(frozen=True)
class Came:
    """What came of rounds: digests of the policy and of kept completions, and the records without times."""

    policy: str
    kept: list[str]
    records: list[dict[str, object]]


def timeless(record: DriftStats | RewardStats | EpochStats) -> dict[str, object]:
    return {name: value for name, value in record.model_dump().items() if "seconds" not in name}


def resident(rounds: Rounds, folder: Path) -> Came:
    """Makes rounds in memory."""
    made = train(rounds, folder / "trained", folder / "tables")
    return came(folder / "trained", [*(folder / "tables").iterdir()], made)


def came(policy: Path, kept: list[Path], made: Made) -> Came:
    records = [timeless(record) for record in (*made.drifts, *made.rewards, *made.epochs)]
    return Came(digest(policy), [digest(file) for file in kept], [*records, {"engine": made.engine.model_dump()}])


def staged(rounds: Rounds, folder: Path) -> Came:
    """Makes the same rounds stage by stage, each of which loads the policy from its file, as the tasks do."""
    folder.mkdir()
    train_table, policy, engine = tables.read(rounds.train, tables.PROMPTS), rounds.policy, rounds.engine
    drifts: list[DriftStats] = []
    rewards: list[RewardStats] = []
    epochs: list[EpochStats] = []
    kept: list[Path] = []
    rollout = rounds.config.rollout

    def written(rows: list[dict[str, object]], name: str) -> pa.Table:
        return tables.read(tables.write(rows, tables.ROLLOUTS, folder / f"{name}.parquet"), tables.ROLLOUTS)

    for index in range(rounds.first, rounds.end):
        if rollout.engine.drift is not None and engine.drift is None:
            drifts.append(drift.unmeasured(index))
        elif rollout.engine.drift is not None:
            limits = rollout.engine.drift
            denoiser = loaded(policy)
            rows, costs = drift.sample(
                denoiser,
                train_table,
                rollout.sampler,
                engine,
                size=limits.sample,
                batch_size=rollout.batch_size,
                seed=rounds.config.seed,
            )
            made, ends = written(rows, f"drift-{index}"), denoiser.end_ids
            stats, engine = drift.measure(made, costs, ends, engine, limits, rounds.config.domain, index)
            drifts.append(stats)
        shards = [
            shard.generate_shard(
                loaded(policy),
                train_table,
                rollout.sampler,
                engine,
                prompts_per_round=rollout.prompts_per_round,
                group_size=rollout.group_size,
                batch_size=rollout.batch_size,
                round_index=index,
                seed=rounds.config.seed,
                shard=each,
                shards=rollout.shards,
            )
            for each in range(rollout.shards)
        ]
        merged = tables.join(written(rows, f"rollouts-{index}-{each}") for each, (rows, _) in enumerate(shards))
        costs = [cost for _, cost in shards]
        table, reward = scoring.score(
            merged, costs, rounds.config.domain, rollout.group_size, rounds.config.reward, told
        )
        file = tables.write(table, tables.REWARDED, folder / f"rewarded-{index}.parquet")
        trained = folder / f"policy-{index}"
        stats_of_epoch = train_epoch(
            Epoch(
                policy,
                rounds.base,
                file,
                rounds.config.distill,
                rollout.group_size,
                index,
                rounds.config.seed,
                trained,
                folder / "e",
            )
        )
        policy = trained
        rewards.append(reward)
        epochs.append(stats_of_epoch)
        kept += [file] if index + 1 in rounds.config.keep else []
    return came(policy, kept, Made(engine=engine, drifts=drifts, rewards=rewards, epochs=epochs))


def loaded(policy: Path):
    denoiser = checkpoint.load(policy, CPU, moments=False).denoiser
    denoiser.freeze_for_sampling()
    return denoiser
