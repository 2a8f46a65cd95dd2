"""GDSD training of masked diffusion language models as a Flyte pipeline.

    pyflyte run workflows/gdsd.py train                                        # the default experiment, on this machine
    pyflyte run workflows/gdsd.py train --config configs/tiny_sudoku.yaml      # any experiment
    pyflyte run --remote workflows/gdsd.py train --config configs/smoke.yaml   # the same on a cluster

| stage    | task                | runs on | cached by                                |
|----------|---------------------|---------|------------------------------------------|
| prompts  | `prepare_prompts`   | CPU     | its config and sources                   |
| policy   | `prepare_policy`    | GPU     | its config, training problems, sources   |
| rollout  | `generate_rollouts` | GPU     | policy, problems, sampler, round, seed   |
| reward   | `score_rollouts`    | CPU     | rollouts, reward config, sources         |
| distill  | `distill_epoch`     | GPU     | policy, scored table, config, round, seed|
| evaluate | `evaluate_policy`   | GPU     | policy, problems, protocol               |
| gate     | `judge`             | CPU     | not cached                               |
| publish  | `publish_policy`    | CPU     | not cached                               |
"""

from datetime import timedelta
from functools import partial
from typing import NamedTuple

from flytekit import dynamic, map_task, workflow

from images import CPU
from tasks.console import speak
from tasks.distill import distill_epoch
from tasks.evaluate import evaluate_policy, select_best
from tasks.gdsd.config import EvaluateConfig, TrainConfig
from tasks.gdsd.records import EpochStats, EvalReport, RewardStats
from tasks.judge import judge
from tasks.local import forget_vanished_results
from tasks.policy import prepare_policy
from tasks.prompts import prepare_prompts
from tasks.publish import EvalResult, RunResult, publish_evaluation, publish_policy
from tasks.reward import score_rollouts
from tasks.rollout import generate_rollouts
from tasks.sources import reach, ship
from tasks.types import Checkpoint, Table

speak()
forget_vanished_results()
ship(reach(__name__))


class Rounds(NamedTuple):
    best: Checkpoint
    rewards: list[RewardStats]
    epochs: list[EpochStats]
    validations: list[EvalReport]


@dynamic(
    container_image=CPU.image,
    requests=CPU.requests,
    limits=CPU.limits,
    cache=False,
    retries=2,
    timeout=timedelta(days=30),
    interruptible=False,
)
def run_rounds(config: TrainConfig, train: Table, validation: Table, base: Checkpoint) -> Rounds:
    """Unrolls the rounds of rollout, reward and distillation, with a validation every few rounds.

    Each round is cached tasks, so a run that was killed or is asked for more rounds computes only what is missing.
    """
    policy = base
    rewards, epochs, candidates, validations = [], [], [], []
    for index in range(config.rounds):
        generate_shard = partial(
            generate_rollouts,
            shards=config.rollout.shards,
            policy=policy,
            train=train,
            sampler=config.rollout.sampler,
            prompts_per_round=config.rollout.prompts_per_round,
            group_size=config.rollout.group_size,
            batch_size=config.rollout.batch_size,
            round=index,
            seed=config.seed,
        )
        shards = map_task(generate_shard)(shard=list(range(config.rollout.shards)))
        scored = score_rollouts(
            shards=shards, domain=config.prompts.domain, group_size=config.rollout.group_size, config=config.reward
        )
        distilled = distill_epoch(
            policy=policy,
            base=base,
            scored=scored.table,
            config=config.distill,
            group_size=config.rollout.group_size,
            round=index,
            seed=config.seed,
        )
        policy = distilled.checkpoint
        rewards.append(scored.stats)
        epochs.append(distilled.stats)
        if (index + 1) % config.validate_every == 0 or index + 1 == config.rounds:
            evaluated = evaluate_policy(
                policy=policy,
                problems=validation,
                domain=config.prompts.domain,
                config=config.evaluation,
                seed=config.seed,
            )
            candidates.append(policy)
            validations.append(evaluated.report)
    best = select_best(policies=candidates, validations=validations)
    return Rounds(best, rewards, epochs, validations)


@workflow
def train(config: TrainConfig = TrainConfig()) -> RunResult:
    """Trains a diffusion language model by GDSD and judges it against its base on the test problems.

    Args:
        config: the experiment, as a YAML or JSON file or inline JSON; the default is configs/tiny_sudoku.yaml
    """
    prompts = prepare_prompts(config=config.prompts, prompts_per_round=config.rollout.prompts_per_round)
    base = prepare_policy(config=config.policy, train=prompts.train, length=config.rollout.sampler.length)
    before = evaluate_policy(
        policy=base.checkpoint,
        problems=prompts.test,
        domain=config.prompts.domain,
        config=config.evaluation,
        seed=config.seed,
    )
    rounds = run_rounds(config=config, train=prompts.train, validation=prompts.validation, base=base.checkpoint)
    after = evaluate_policy(
        policy=rounds.best,
        problems=prompts.test,
        domain=config.prompts.domain,
        config=config.evaluation,
        seed=config.seed,
    )
    decision = judge(base=before.samples, trained=after.samples, config=config.judge)
    return publish_policy(
        config=config,
        prompts=prompts.stats,
        policy=base.stats,
        rewards=rounds.rewards,
        epochs=rounds.epochs,
        validations=rounds.validations,
        base_report=before.report,
        base_samples=before.samples,
        trained_report=after.report,
        trained_samples=after.samples,
        decision=decision,
        best=rounds.best,
    )


@workflow
def evaluate(policy: Checkpoint, config: EvaluateConfig = EvaluateConfig()) -> EvalResult:
    """Scores any checkpoint on the test problems of a prompt configuration.

    Args:
        policy: the checkpoint folder, for example the `policy` folder of a run
        config: problems and protocol, as a YAML or JSON file or inline JSON
    """
    prompts = prepare_prompts(config=config.prompts)
    evaluated = evaluate_policy(
        policy=policy, problems=prompts.test, domain=config.prompts.domain, config=config.evaluation, seed=config.seed
    )
    return publish_evaluation(report=evaluated.report, samples=evaluated.samples)
