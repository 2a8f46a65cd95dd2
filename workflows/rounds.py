"""The rounds of a run: rollout, reward, distillation, and an evaluation every few of them.

A run is a chain of legs. Each leg is a dynamic task of its own: some rounds, then an evaluation. So a leg knows what
came before and can leave the rest undone. Of many legs each hundred is a dynamic task too, and so on. So no Flyte
workflow has many nodes, however long the run. Neither the legs nor what is around them is cached, only what they do:
other legs or another nesting find the same results in the cache.
"""

import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

from flytekit import FlyteContextManager, map_task

from tasks.distill import Distilled, distill_epoch, distill_epoch_on_nodes
from tasks.drift import MeasuredDrift, measure_drift, sample_both
from tasks.evaluate import Evaluated, answer_problems, verify_answers
from tasks.flyte.hardware import on
from tasks.flyte.sources import reach, ship
from tasks.flyte.stage import unroll
from tasks.flyte.types import Checkpoint, ProgressFile, Table
from tasks.gdsd.config.evaluate import EvaluationConfig
from tasks.gdsd.config.hardware import HardwareConfig
from tasks.gdsd.config.prompts import Room
from tasks.gdsd.config.sampler import RolloutEngine
from tasks.gdsd.config.train import DistillConfig, TrainConfig
from tasks.gdsd.domains import DomainChoice
from tasks.gdsd.evaluate import stopping
from tasks.gdsd.records import DriftStats, EpochStats, EvalReport, Progress, RewardStats
from tasks.progress import announce_round, report_progress
from tasks.resident import Stayed, train_rounds
from tasks.reward import Rewarded, reward_rollouts
from tasks.rollout import generate_rollouts
from workflows.publish import LAUNCHING, tell_of

ship(reach(__name__))

# Flyte keeps what a dynamic task adds, and sends it to its own service, as one message. With these it stays below a
# megabyte, however long the configuration is.
LONGEST = 25  # rounds in a leg, where evaluations are further apart than that; 10 to 23 kB each
WIDEST = 100  # legs, or bundles of legs, in a chain; 1.4 kB each, and the configuration
CONFIGURATIONS = 500_000  # bytes of JSON that those of a chain have together at most


class Standing(NamedTuple):
    """Where a run is after a leg."""

    policy: Checkpoint
    best: Checkpoint  # the best evaluated one, but for what `validation` says of `policy`
    engine: RolloutEngine  # which makes the next rollouts
    progress: list[ProgressFile]  # one, but none before the first round
    validation: list[EvalReport]  # of `policy`, if the leg ended with one; it is no part of `progress` yet


class News(NamedTuple):
    """What rounds have recorded that the run's progress does not have yet."""

    validations: list[EvalReport]
    drifts: list[DriftStats]
    rewards: list[RewardStats]
    epochs: list[EpochStats]


class Rounds(NamedTuple):
    """What the rounds of a run came to."""

    policy: Checkpoint  # the last one
    best: Checkpoint  # the best one before the last validation
    progress: list[ProgressFile]
    validation: list[EvalReport]  # the last one


def assess(
    policy: Checkpoint,
    problems: Table,
    domain: DomainChoice,
    config: EvaluationConfig,
    seed: int,
    hardware: HardwareConfig,
    room: Room,
) -> Evaluated:
    """Adds an evaluation to a dynamic workflow: answers in shards, each cached, and one verdict on all of them.

    Args:
        room: which problems these are, and what they have to leave room for.
    """
    answer_shard = partial(
        answer_problems,
        shards=config.shards,
        policy=policy,
        problems=problems,
        config=config,
        seed=seed,
        room=room,
    )
    numbers = list(range(config.shards))
    if on_cluster():
        shards = on(hardware.evaluation, map_task(answer_shard)(shard=numbers))
    else:  # on this machine, where flytekit caches a map task as a whole, and an interruption would lose every shard
        shards = [answer_shard(shard=number) for number in numbers]
    verified = verify_answers(shards=shards, domain=domain, rule=domain.rule(), config=config, seed=seed)
    return on(hardware.scoring, verified)


def on_cluster() -> bool:
    """Says whether a dynamic task is being unrolled for a cluster; otherwise it runs on this machine."""
    return FlyteContextManager.current_context().compilation_state is not None


class Leg(NamedTuple):
    """Rounds, numbered from 0, that are one dynamic task."""

    rounds: range
    evaluated: bool  # at its end


def cut(rounds: int, evaluate_every: int) -> Iterator[Leg]:
    """Yields the legs of a run."""
    first = 0
    while first < rounds:
        evaluation = min(rounds, first + evaluate_every - first % evaluate_every)
        end = min(evaluation, first + LONGEST)
        yield Leg(range(first, end), end == evaluation)
        first = end


@unroll(environment=LAUNCHING)
def run_leg(
    config: TrainConfig,
    policy: Checkpoint,
    best: Checkpoint,
    engine: RolloutEngine,
    progress: list[ProgressFile],
    validation: list[EvalReport],
    first: int,
    end: int,
    evaluated: bool,
    train: Table,
    problems: Table,
    base: Checkpoint,
    began: float,
    asked: str,
) -> Standing:
    """Unrolls the rounds from `first` to before `end`, or nothing if the run has stopped.

    Args:
        policy, best, engine, progress, validation: where the run is, see `Standing`
        first: the first round, counted from 0
        end: the first round of the next leg
        evaluated: whether an evaluation ends this one
        train: what the rollouts complete
        problems: what is evaluated on
        base: what the run started from
        began: when the run began its rounds, in seconds since 1970
        asked: what the problems are called
    """
    recorded = Progress.read(progress)
    validations = [*recorded.validations, *validation]
    if stopping.has_stopped(validations, config.patience):
        return Standing(policy, best, engine, progress, validation)
    if validation and stopping.best(validations) == len(validations) - 1:
        best = policy
    tell_of(config, recorded.model_copy(update={"validations": validations}), began)
    if config.rounds_per_task > 1:
        for block in blocks(first, end, config.rounds_per_task):
            made = stay(config, policy, base, engine, train, block, progress)
            policy, engine = made.checkpoint, made.engine
            news = News(validation, made.drifts, made.rewards, made.epochs)
            progress, validation = [record(config, progress, news)], []
        return Standing(policy, best, engine, progress, validate(config, policy, problems, asked) if evaluated else [])
    news = News(validation, [], [], [])
    for index in range(first, end):
        if config.rollout.engine.drift is not None:
            measured = check_engine(config, policy, engine, train, index)
            engine = measured.engine
            news.drifts.append(measured.stats)
        rewarded = collect(config, policy, engine, train, index)
        distilled = update(config, policy, base, rewarded.table, index)
        policy = distilled.checkpoint
        news.rewards.append(rewarded.stats)
        news.epochs.append(distilled.stats)
        if not on_cluster():
            announce_round(reward=rewarded.stats, epoch=distilled.stats, rounds=config.rounds)
        if on_cluster() or index + 1 == end:  # beside what comes next; on this machine nothing is beside anything
            progress, news = [record(config, progress, news)], News([], [], [], [])
    return Standing(policy, best, engine, progress, validate(config, policy, problems, asked) if evaluated else [])


def record(config: TrainConfig, progress: list[ProgressFile], news: News) -> ProgressFile:
    """Adds rounds to what the run has recorded."""
    return report_progress(name=config.name, rounds=config.rounds, before=progress, **news._asdict())


def validate(config: TrainConfig, policy: Checkpoint, problems: Table, asked: str) -> list[EvalReport]:
    """Adds the evaluation that ends a leg."""
    domain, protocol = config.prompts.domain, config.evaluation
    room = Room(problems=asked, length=protocol.sampler.length)
    return [assess(policy, problems, domain, protocol, config.seed, config.hardware, room).report]


def blocks(first: int, end: int, size: int) -> Iterator[range]:
    """Yields the rounds of a leg, as many at a time as are one task."""
    for start in range(first, end, size):
        yield range(start, min(start + size, end))


def stay(
    config: TrainConfig,
    policy: Checkpoint,
    base: Checkpoint,
    engine: RolloutEngine,
    train: Table,
    block: range,
    progress: list[ProgressFile],
) -> Stayed:
    """Adds rounds that are one task."""
    return on(
        config.hardware.distill,
        train_rounds(
            policy=policy,
            base=base,
            train=train,
            domain=config.prompts.domain,
            engine=engine,
            config=config.resident(block),
            first=block.start,
            end=block.stop,
            name=config.name,
            rounds=config.rounds,
            before=progress,
        ),
        processes=config.distill.compute.processes,
    )


def check_engine(
    config: TrainConfig, policy: Checkpoint, engine: RolloutEngine, train: Table, index: int
) -> MeasuredDrift:
    """Adds the measurement of what an approximate engine loses; it decides which engine makes the round's rollouts."""
    limits = config.rollout.engine.drift
    assert limits is not None  # or nothing would be measured
    samples = on(
        config.hardware.rollout,
        sample_both(
            policy=policy,
            train=train,
            sampler=config.rollout.sampler,
            engine=engine,
            size=limits.sample,
            batch_size=config.rollout.batch_size,
            seed=config.seed,
        ),
    )
    domain = config.prompts.domain
    return on(
        config.hardware.scoring,
        measure_drift(samples=samples, engine=engine, limits=limits, domain=domain, rule=domain.rule(), round=index),
    )


def collect(config: TrainConfig, policy: Checkpoint, engine: RolloutEngine, train: Table, index: int) -> Rewarded:
    """Adds a round's rollouts, a shard on a GPU each, and the rewards of them all."""
    rollout = config.rollout
    generate_shard = partial(
        generate_rollouts,
        shards=rollout.shards,
        policy=policy,
        train=train,
        sampler=rollout.sampler,
        engine=engine,
        prompts_per_round=rollout.prompts_per_round,
        group_size=rollout.group_size,
        batch_size=rollout.batch_size,
        round=index,
        seed=config.seed,
    )
    shards = on(config.hardware.rollout, map_task(generate_shard)(shard=list(range(rollout.shards))))
    domain = config.prompts.domain
    return on(
        config.hardware.scoring,
        reward_rollouts(
            shards=shards, domain=domain, rule=domain.rule(), group_size=rollout.group_size, config=config.reward
        ),
    )


def update(config: TrainConfig, policy: Checkpoint, base: Checkpoint, rewarded: Table, index: int) -> Distilled:
    """Adds an epoch of updates, on one machine or on several."""
    compute = config.distill.compute
    nodes = compute.nodes if on_cluster() else 1  # in a local run, that many processes share the epoch
    return on(
        config.hardware.distill,
        (distill_epoch_on_nodes if nodes > 1 else distill_epoch)(
            policy=policy,
            base=base,
            rewarded=rewarded,
            config=config.distill,
            group_size=config.rollout.group_size,
            round=index,
            seed=config.seed,
        ),
        processes=compute.processes,
        nodes=nodes,
    )


@unroll(environment=LAUNCHING)
def run_legs(
    config: TrainConfig,
    policy: Checkpoint,
    best: Checkpoint,
    engine: RolloutEngine,
    progress: list[ProgressFile],
    validation: list[EvalReport],
    first: int,
    end: int,
    train: Table,
    problems: Table,
    base: Checkpoint,
    began: float,
    asked: str,
) -> Standing:
    """Chains the legs of the rounds from `first` to before `end`, or nothing if the run has stopped.

    Args: as those of `run_leg`
    """
    at = Standing(policy, best, engine, progress, validation)
    if stopping.has_stopped([*Progress.read(progress).validations, *validation], config.patience):
        return at
    every_leg = cut(config.rounds, config.validate_every)
    legs = [leg for leg in every_leg if first <= leg.rounds.start < end]
    return chain(config, at, legs, train, problems, base, began, asked)


def chain(
    config: TrainConfig,
    at: Standing,
    legs: Sequence[Leg],
    train: Table,
    problems: Table,
    base: Checkpoint,
    began: float,
    asked: str,
) -> Standing:
    """Adds legs to a dynamic task: each by itself, or in bundles if there are too many for that."""
    widest = max(2, min(WIDEST, CONFIGURATIONS // len(config.model_dump_json())))
    size = 1  # of a bundle
    while size * widest < len(legs):
        size *= widest
    for number in range(0, len(legs), size):
        first, last = legs[number], legs[number : number + size][-1]
        add = partial(run_leg, evaluated=last.evaluated) if size == 1 else run_legs
        at = add(
            config=config,
            policy=at.policy,
            best=at.best,
            engine=at.engine,
            progress=at.progress,
            validation=at.validation,
            first=first.rounds.start,
            end=last.rounds.stop,
            train=train,
            problems=problems,
            base=base,
            began=began,
            asked=asked,
        )
    return at


@unroll(environment=LAUNCHING)
def run_rounds(
    config: TrainConfig, distill: DistillConfig, train: Table, problems: Table, base: Checkpoint, asked: str
) -> Rounds:
    """Chains the legs of a run, which evaluate on some problems; the last round is always evaluated.

    Each round is cached tasks, so a run that was killed or is asked for more rounds computes only what is missing.

    Args:
        distill: what takes the place of the configuration's, such as what a comparison chose while it ran
        asked: what the problems are called that it evaluates on
    """
    began = time.time()
    config = config.model_copy(update={"distill": distill})
    # Limits decide which engine is used, not what it makes: others leave the rollouts in the cache.
    at = Standing(base, base, config.rollout.engine.without_limits(), [], [])
    legs = list(cut(config.rounds, config.validate_every))
    at = chain(config, at, legs, train, problems, base, began, asked)
    return Rounds(at.policy, at.best, at.progress, at.validation)
