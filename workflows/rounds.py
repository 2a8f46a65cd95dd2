"""The rounds of a run: rollout, reward, distillation, and an evaluation every few of them.

A run is a chain of legs, each a dynamic task of its own that ends with an evaluation. So a leg knows what came before
and can leave the rest undone, and no Flyte workflow has more nodes than a leg.
"""

import time
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from typing import NamedTuple

from flytekit import FlyteContextManager, dynamic, map_task

from images import CPU, IMAGES, on
from tasks.distill import distill_epoch, distill_epoch_on_nodes
from tasks.drift import judge_drift, sample_both
from tasks.evaluate import Evaluated, answer_problems, score_answers
from tasks.gdsd.config.hardware import HardwareConfig, TrainHardwareConfig
from tasks.gdsd.config.sampler import RolloutEngine
from tasks.gdsd.config.train import DistillConfig, EvaluationConfig, RewardConfig, RolloutConfig
from tasks.gdsd.domains import DomainChoice
from tasks.gdsd.evaluate import stopping
from tasks.gdsd.records import EvalReport, Progress
from tasks.progress import announce_round, report_progress
from tasks.reward import score_rollouts
from tasks.rollout import generate_rollouts
from tasks.sources import reach, ship
from tasks.types import Checkpoint, Table

ship(reach(__name__))

LONGEST = 25  # rounds in a leg, where evaluations are further apart than that


class Standing(NamedTuple):
    """Where a run is after a leg."""

    policy: Checkpoint
    best: Checkpoint  # the best evaluated one, but for what `validation` says of `policy`
    engine: RolloutEngine  # which makes the next rollouts
    progress: Progress
    validation: list[EvalReport]  # of `policy`, if the leg ended with one; it is no part of `progress` yet


class Rounds(NamedTuple):
    """What the rounds of a run came to."""

    policy: Checkpoint  # the last one
    best: Checkpoint  # the best one before the last validation
    progress: Progress
    validation: list[EvalReport]  # the last one
    began_unix_seconds: float


def assess(
    policy: Checkpoint,
    problems: Table,
    domain: DomainChoice,
    config: EvaluationConfig,
    seed: int,
    hardware: HardwareConfig,
) -> Evaluated:
    """Adds an evaluation to a dynamic workflow: answers in shards, each cached, and one verdict on all of them."""
    answer_shard = partial(
        answer_problems, shards=config.shards, policy=policy, problems=problems, config=config, seed=seed
    )
    numbers = list(range(config.shards))
    if on_cluster():
        shards = on(hardware.evaluation, map_task(answer_shard)(shard=numbers))
    else:  # on this machine, where flytekit caches a map task as a whole, and an interruption would lose every shard
        shards = [answer_shard(shard=number) for number in numbers]
    return on(hardware.scoring, score_answers(shards=shards, domain=domain, config=config, seed=seed))


def on_cluster() -> bool:
    """Says whether a dynamic task is being unrolled for a cluster; otherwise it runs on this machine."""
    return FlyteContextManager.current_context().compilation_state is not None


def cut(rounds: int, evaluate_every: int) -> Iterator[tuple[range, bool]]:
    """Yields the rounds of each leg, numbered from 0, and whether an evaluation ends it."""
    first = 0
    while first < rounds:
        evaluation = min(rounds, first + evaluate_every - first % evaluate_every)
        end = min(evaluation, first + LONGEST)
        yield range(first, end), end == evaluation
        first = end


@dynamic(
    container_image=CPU.image,
    environment=IMAGES,
    requests=CPU.requests,
    limits=CPU.limits,
    cache=False,
    retries=2,
    timeout=timedelta(days=30),
    interruptible=False,
)
def run_leg(
    name: str,
    rounds: int,
    policy: Checkpoint,
    best: Checkpoint,
    engine: RolloutEngine,
    progress: Progress,
    validation: list[EvalReport],
    first: int,
    end: int,
    evaluated: bool,
    patience: int | None,
    train: Table,
    problems: Table,
    base: Checkpoint,
    domain: DomainChoice,
    rollout: RolloutConfig,
    reward: RewardConfig,
    distill: DistillConfig,
    evaluation: EvaluationConfig,
    seed: int,
    hardware: TrainHardwareConfig,
) -> Standing:
    """Unrolls the rounds from `first` to before `end`, or nothing if the run has stopped.

    Args:
        name: of the run, on the page that shows its progress
        rounds: that the run is to have
        policy, best, engine, progress, validation: where the run is, see `Standing`
        first: the first round, counted from 0
        end: the first round of the next leg
        evaluated: whether an evaluation ends this one
    """
    validations = [*progress.validations, *validation]
    if stopping.has_stopped(validations, patience):
        return Standing(policy, best, engine, progress, validation)
    if validation and stopping.best(validations) == len(validations) - 1:
        best = policy
    # In a local run, on this machine, that many processes share the epoch.
    nodes = distill.compute.nodes if on_cluster() else 1
    limits = rollout.engine.drift
    news, rewards, epochs, drifts = validation, [], [], []
    for index in range(first, end):
        if limits is not None:
            samples = on(
                hardware.rollout,
                sample_both(
                    policy=policy,
                    train=train,
                    sampler=rollout.sampler,
                    engine=engine,
                    size=limits.sample,
                    batch_size=rollout.batch_size,
                    seed=seed,
                ),
            )
            judged = on(
                hardware.scoring,
                judge_drift(samples=samples, engine=engine, limits=limits, domain=domain, round=index),
            )
            engine = judged.engine
            drifts.append(judged.stats)
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
            seed=seed,
        )
        shards = on(hardware.rollout, map_task(generate_shard)(shard=list(range(rollout.shards))))
        scored = on(
            hardware.scoring,
            score_rollouts(shards=shards, domain=domain, group_size=rollout.group_size, config=reward),
        )
        distilled = on(
            hardware.distill,
            (distill_epoch_on_nodes if nodes > 1 else distill_epoch)(
                policy=policy,
                base=base,
                scored=scored.table,
                config=distill,
                group_size=rollout.group_size,
                round=index,
                seed=seed,
            ),
            processes=distill.compute.processes,
            nodes=nodes,
        )
        policy = distilled.checkpoint
        rewards.append(scored.stats)
        epochs.append(distilled.stats)
        if not on_cluster():
            announce_round(reward=scored.stats, epoch=distilled.stats, rounds=rounds)
        if on_cluster() or index + 1 == end:  # beside what comes next; on this machine nothing is beside anything
            progress = report_progress(
                name=name,
                rounds=rounds,
                before=progress,
                drifts=drifts,
                rewards=rewards,
                epochs=epochs,
                validations=news,
            )
            news, rewards, epochs, drifts = [], [], [], []
    after = [assess(policy, problems, domain, evaluation, seed, hardware).report] if evaluated else []
    return Standing(policy, best, engine, progress, after)


@dynamic(
    container_image=CPU.image,
    environment=IMAGES,
    requests=CPU.requests,
    limits=CPU.limits,
    cache=False,
    retries=2,
    timeout=timedelta(days=30),
    interruptible=False,
)
def run_rounds(
    name: str,
    train: Table,
    problems: Table,
    base: Checkpoint,
    domain: DomainChoice,
    rounds: int,
    evaluate_every: int,
    patience: int | None,
    rollout: RolloutConfig,
    reward: RewardConfig,
    distill: DistillConfig,
    evaluation: EvaluationConfig,
    seed: int,
    hardware: TrainHardwareConfig,
) -> Rounds:
    """Chains the legs of a run, which evaluate on some problems; the last round is always evaluated.

    Each round is cached tasks, so a run that was killed or is asked for more rounds computes only what is missing.
    """
    began = time.time()
    # Limits decide which engine is used, not what it makes: others leave the rollouts in the cache.
    at = Standing(base, base, rollout.engine.without_limits(), Progress(), [])
    for leg, evaluated in cut(rounds, evaluate_every):
        at = run_leg(
            name=name,
            rounds=rounds,
            policy=at.policy,
            best=at.best,
            engine=at.engine,
            progress=at.progress,
            validation=at.validation,
            first=leg.start,
            end=leg.stop,
            evaluated=evaluated,
            patience=patience,
            train=train,
            problems=problems,
            base=base,
            domain=domain,
            rollout=rollout,
            reward=reward,
            distill=distill,
            evaluation=evaluation,
            seed=seed,
            hardware=hardware,
        )
    return Rounds(at.policy, at.best, at.progress, at.validation, began)
