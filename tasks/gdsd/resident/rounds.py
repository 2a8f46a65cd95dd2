"""Rounds in memory: the stages of a round one after the other, by the same functions, on a policy that stays loaded.

Several processes, each with a GPU of its own, share the shards of the rollouts as they share an epoch of updates. The
first one judges all completions, and keeps the state.
"""

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Self, TypeAlias, TypeVar

import pyarrow as pa
import torch
from accelerate import Accelerator

from tasks.gdsd import tables
from tasks.gdsd.config.sampler import RolloutEngine
from tasks.gdsd.config.train import DistillConfig, ResidentConfig
from tasks.gdsd.denoiser import checkpoint
from tasks.gdsd.denoiser.sampling import sampling
from tasks.gdsd.distill import epoch, loop, processes, resume
from tasks.gdsd.distill.failures import FailureReport
from tasks.gdsd.distill.launcher import launch
from tasks.gdsd.domains import DomainChoice, make
from tasks.gdsd.errors import GdsdError
from tasks.gdsd.evaluate import drift
from tasks.gdsd.files import digest
from tasks.gdsd.prompts.expectations import QualityReport
from tasks.gdsd.records import DriftStats, EpochStats, Made, RolloutStats
from tasks.gdsd.resident import state
from tasks.gdsd.resident.state import Collected, StateRecord
from tasks.gdsd.reward import scoring
from tasks.gdsd.rollout import shard

Result = TypeVar("Result")
Shard: TypeAlias = tuple[pa.Table, RolloutStats]
Tell = Callable[[Made], None]


@dataclass(frozen=True)
class Rounds:
    """What some rounds in a row read, and where they put what comes of them. It goes to other processes."""

    policy: Path
    base: Path | None  # where the objective needs a reference that the policy with its adapter off is not
    train: Path
    engine: RolloutEngine  # which makes the first rollouts
    config: ResidentConfig
    first: int
    end: int  # the first round that is not among them
    key: str  # digest of all that the rounds follow from
    work: Path  # a folder that is emptied
    file: Path  # what an earlier attempt has kept, and what this one keeps
    evidence: Path  # what is left of an epoch whose updates were not finite
    tell: Tell  # is given what the rounds came to so far, after each, in the first process
    send: Callable[[Path], None] | None = None  # puts a state where the next attempt finds it
    speak: Callable[[], None] | None = None  # shows the log lines of a process that was started for this

    def judged_by(self, domain: DomainChoice) -> Self:
        """Returns the rounds with another domain of the same rule, such as one that asks a server otherwise."""
        return replace(self, config=self.config.model_copy(update={"domain": domain}))


def train(rounds: Rounds, trained: Path, kept: Path) -> Made:
    """Trains a policy for some rounds, in as many processes as configured, and saves it.

    Args:
        trained: the new checkpoint, not there yet.
        kept: a folder for the tables that are kept, `tables.REWARDED`, not there yet.

    Raises:
        SandboxError: this machine cannot judge the domain's answers; nothing was computed.
        GdsdError: see the stages.
        Exception: see `launcher.launch`.
    """
    make(rounds.config.domain).require()

    def share(distill: DistillConfig) -> Made:
        state.take_up(rounds.file, rounds.work, rounds.key)
        config = rounds.config.model_copy(update={"distill": distill})
        return launch(_train, replace(rounds, config=config), distill.compute.processes)

    made = epoch.fitted(rounds.config.distill, share)
    (rounds.work / state.KEPT).mkdir(exist_ok=True)
    for made_here, place in ((state.POLICY, trained), (state.KEPT, kept)):
        shutil.move(rounds.work / made_here, place)  # which may be on another disk
    return made


def _train(rounds: Rounds) -> Made:
    """What each process does; only the first one writes."""
    _, count = processes.place()
    if rounds.speak is not None and count > 1:
        rounds.speak()
    resident = _Resident(rounds)
    for index in range(rounds.first + len(resident.at.made.epochs), rounds.end):
        if resident.at.collected is None:
            resident.collect(index)
        resident.update(index)
    return resident.at.made


class _Resident:
    """A process with a policy in memory, and where its rounds are."""

    def __init__(self, rounds: Rounds):
        """Loads the policy, where an earlier attempt has left it if one has."""
        self.rounds = rounds
        self.at = state.read(rounds.work) or StateRecord(rounds=rounds.key, made=Made(engine=rounds.engine))
        self.folder = rounds.work / state.POLICY if self.at.made.epochs else rounds.policy
        self.policy, self.base = epoch.load_both(self.folder, rounds.base, rounds.config.distill.compute)
        self.train = tables.read(rounds.train, tables.PROMPTS)
        self.accelerator = processes.accelerator(self.policy.denoiser.device, rounds.config.distill.compute)
        self.keeper = state.Keeper(rounds.work, rounds.file, rounds.send)

    def collect(self, index: int) -> None:
        """Makes a round's completions, and judges them."""
        engine, measured = self.at.made.engine, None
        with sampling(self.policy.denoiser):
            if self.rounds.config.rollout.engine.drift is not None:
                measured, engine = _of_first(partial(self._measure, engine, index), self.accelerator)
            made = self._sample(engine, index)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # updates need it in other pieces than sampling did
        judge = partial(self._judge, made, engine, measured, index)
        self.at = self.at.model_copy(update={"collected": _of_first(judge, self.accelerator)})

    def _measure(self, engine: RolloutEngine, index: int) -> tuple[DriftStats, RolloutEngine]:
        """Says how far an approximate engine is from the exact one, and which one makes the rollouts from here on."""
        rounds, denoiser, limits = self.rounds, self.policy.denoiser, self.rounds.config.rollout.engine.drift
        if engine.drift is None or limits is None:
            return drift.unmeasured(index), engine
        rows, costs = drift.sample(
            denoiser,
            self.train,
            rounds.config.rollout.sampler,
            engine,
            size=limits.sample,
            batch_size=rounds.config.rollout.batch_size,
            seed=rounds.config.seed,
        )
        made = pa.Table.from_pylist(rows, tables.ROLLOUTS)
        return drift.measure(made, costs, denoiser.end_ids, engine, limits, rounds.config.domain, index)

    def _sample(self, engine: RolloutEngine, index: int) -> list[Shard]:
        """Generates this process's shards of a round's rollouts; returns those of all, in order."""
        rollout = self.rounds.config.rollout
        number, count = self.accelerator.process_index, self.accelerator.num_processes
        mine = []
        for each in range(number, rollout.shards, count):
            rows, cost = shard.generate_shard(
                self.policy.denoiser,
                self.train,
                rollout.sampler,
                engine,
                prompts_per_round=rollout.prompts_per_round,
                group_size=rollout.group_size,
                batch_size=rollout.batch_size,
                round_index=index,
                seed=self.rounds.config.seed,
                shard=each,
                shards=rollout.shards,
            )
            mine.append((pa.Table.from_pylist(rows, tables.ROLLOUTS), cost))
        everyones = processes.gather(mine, self.accelerator)
        return [everyones[each % count][each // count] for each in range(rollout.shards)]

    def _judge(self, made: list[Shard], engine: RolloutEngine, measured: DriftStats | None, index: int) -> Collected:
        """Rewards a round's completions, and writes them down."""
        rounds, work = self.rounds, self.rounds.work
        merged = tables.join(table for table, _ in made)
        costs = [cost for _, cost in made]
        group_size = rounds.config.rollout.group_size
        table, stats = scoring.score(merged, costs, rounds.config.domain, group_size, rounds.config.reward, _unshown)
        file = tables.write(table, tables.REWARDED, work / state.REWARDED)
        if index + 1 in rounds.config.keep:
            (work / state.KEPT).mkdir(exist_ok=True)
            shutil.copyfile(file, work / state.KEPT / f"round-{index + 1:05}.parquet")
        return Collected(engine=engine, drift=measured, reward=stats)

    def update(self, index: int) -> None:
        """Trains the policy on a round's completions, and keeps it."""
        rounds = self.rounds
        trained, stats = loop.distill(
            self.policy,
            self.base,
            tables.read(rounds.work / state.REWARDED, tables.REWARDED),
            rounds.config.distill,
            round_index=index,
            group_size=rounds.config.rollout.group_size,
            seed=rounds.config.seed,
            parent=digest(self.folder),
            evidence=rounds.evidence,
            keeper=self._epoch_keeper(index),
        )
        self.policy, self.folder = trained, rounds.work / state.POLICY
        self.at = _of_first(partial(self._settle, stats), self.accelerator)
        if rounds.config.distill.compute.sharding == "fsdp" and not self.accelerator.is_main_process:
            trained.optimizer = checkpoint.load_moments(self.folder)  # which the first one has put together

    def _epoch_keeper(self, index: int) -> resume.Keeper:
        """Returns what keeps the states inside a round's epoch, as part of the state of all rounds."""
        rounds, at = self.rounds, self.at
        said = [rounds.key, str(index), rounds.config.distill.model_dump_json(), digest(rounds.work / state.REWARDED)]
        name = hashlib.sha256("\0".join(said).encode()).hexdigest()
        file = rounds.work / resume.FILE

        def send(_: Path) -> None:
            self.keeper.keep(at)

        found = file if file.is_file() else None
        return resume.Keeper(name, rounds.config.distill.compute.save_minutes, file, found, send)

    def _settle(self, stats: EpochStats) -> StateRecord:
        """Writes down what a round came to, keeps it, and tells of it."""
        work, collected = self.rounds.work, self.at.collected
        assert collected is not None  # the updates were on them
        checkpoint.save(work / "new", self.policy)
        shutil.rmtree(self.folder, ignore_errors=True)
        os.rename(work / "new", self.folder)
        for name in (state.REWARDED, resume.FILE):
            (work / name).unlink(missing_ok=True)
        reached = StateRecord(rounds=self.rounds.key, made=collected.after(self.at.made, stats))
        self.keeper.keep(reached)
        self.rounds.tell(reached.made)
        return reached


def _unshown(report: QualityReport) -> None:
    """Leaves out the page of a round's checks: the record has what they warn of, and an error what they refuse."""


def _of_first(work: Callable[[], Result], accelerator: Accelerator) -> Result:
    """Lets the first process work; all return what it does, or raise the error of the project that it has."""
    if accelerator.num_processes == 1:
        return work()
    told: tuple[list[Result], FailureReport | None] = [], None
    if accelerator.is_main_process:
        try:
            told = [work()], None
        except GdsdError as error:
            told = [], FailureReport.of(error)
    results, failure = processes.gather(told, accelerator)[0]
    if failure is not None:
        raise failure.exception()
    return results[0]
