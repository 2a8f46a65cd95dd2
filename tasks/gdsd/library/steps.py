"""The steps of a round, by the functions of the pipeline's stages.

With equal seeds and configurations, tokens and weights are the pipeline's bit for bit where it has one process.
"""

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from tasks.gdsd import tables
from tasks.gdsd.config.policy import PolicyConfig
from tasks.gdsd.config.prompts import Room
from tasks.gdsd.config.sampler import DualCacheConfig, ExactConfig, PrefixCacheConfig, RolloutEngine, SamplerConfig
from tasks.gdsd.config.train import DistillConfig
from tasks.gdsd.denoiser import checkpoint, devices
from tasks.gdsd.denoiser.checkpoint import PolicyState
from tasks.gdsd.denoiser.sampling import sampling
from tasks.gdsd.distill import beginning, epoch, loop
from tasks.gdsd.domains import Answer, Domain, DomainChoice, make
from tasks.gdsd.errors import ConfigError, DataError
from tasks.gdsd.library.prompts import Prompt, table
from tasks.gdsd.records import EpochStats
from tasks.gdsd.reward.advantages import leave_one_out
from tasks.gdsd.reward.rewards import require_groups, weigh
from tasks.gdsd.reward.verdicts import require_verdicts
from tasks.gdsd.rollout import shard
from tasks.gdsd.rollout.shard import Rollout

EXACT = ExactConfig()


class Judgement(NamedTuple):
    """What a domain says of an answer; see `Verdict`."""

    reward: float | None  # weighted sum of the parts; None where one of some weight cannot be judged
    solved: bool | None
    parts: Mapping[str, float | None]
    remark: str | None


def start(
    config: PolicyConfig,
    train: Sequence[Prompt] = (),
    length: int = 16,
    others: Sequence[Prompt] = (),
    *,
    references_are_answers: bool = True,
) -> PolicyState:
    """Makes the base policy of a configuration: a tiny one, a published model, or an earlier run's policy.

    Args:
        train: problems whose answers a tiny policy is warm-started on.
        length: tokens of a completion, to which the warm start fills these answers.
        others: problems that it is asked later; where its alphabet is `from_data`, it has their characters too.
        references_are_answers: whether the policy could write the references; else that alphabet leaves them out.

    Raises:
        ConfigError: there is nothing to warm-start on, or what is asked of the model and its adapter cannot be.
        CheckpointError: the model is not to be had, is not the pinned one, or is of no known family.
        DataError: an answer is longer than `length`, or has a character that the tiny policy cannot write.
    """
    if config.warm_start is not None and config.warm_start.steps and not (train and references_are_answers):
        raise ConfigError(
            "a tiny policy is warm-started on answers; give `train` with references that are answers, or set "
            "warm_start.steps to 0"
        )
    asked = {"train": table(train), "others": table(others)}
    rooms = [Room(problems=name, length=length, writes_references=references_are_answers) for name in asked]
    outlined = beginning.outline(config, asked.values(), rooms)
    state = beginning.complete(config, outlined, asked["train"], length, devices.device())
    if config.model is not None and config.adapter is None:
        state.denoiser.float()  # as `epoch.load` reads what is trained as a whole
    return state


def load(folder: Path | str) -> PolicyState:
    """Loads a policy that `save` or a run of the pipeline has written, with its optimizer.

    Raises:
        CheckpointError: a file is missing, damaged, or does not fit the others.
    """
    return epoch.load(Path(folder), devices.device())


def save(policy: PolicyState, folder: Path | str) -> Path:
    """Writes a policy with its optimizer into a new folder, which the pipeline reads too.

    Raises:
        FileExistsError: there is such a folder.
    """
    if Path(folder).exists():
        raise FileExistsError(f"{folder} is there already; name another folder, or remove it")
    return checkpoint.save(Path(folder), policy)


def sample(
    policy: PolicyState,
    prompts: Sequence[Prompt],
    sampler: SamplerConfig,
    *,
    group_size: int = 1,
    engine: ExactConfig | PrefixCacheConfig | DualCacheConfig = EXACT,
    batch_size: int = 256,
    seed: int = 0,
) -> list[Rollout]:
    """Lets a policy complete each prompt `group_size` times; returns the completions in the order of the prompts.

    Random numbers are addressed by (seed, rounds behind the policy, prompt's id, sample). So the same call gives the
    same completions, and the next round others.

    Raises:
        DataError: a prompt cannot be tokenised, or does not fit the model's positions with its completion.
        ConfigError: the settings do not fit the policy.
    """
    denoiser = policy.denoiser
    for prompt in prompts:
        tokens = len(denoiser.encode(prompt.prompt))
        if tokens + sampler.length > denoiser.positions:
            raise DataError(
                f"prompt {prompt.id!r} has {tokens} tokens, and with completions of {sampler.length} that is more than "
                f"the {denoiser.positions} that the model was made for; leave it out, or lower sampler.length"
            )
    asked = shard.ask([vars(prompt) for prompt in prompts], group_size, policy.record.round, seed)
    title = f"rollouts of round {policy.record.round + 1}"
    with sampling(denoiser):
        made, _ = shard.complete(denoiser, asked, sampler, RolloutEngine(engine), batch_size, title)
    return made


def judge(domain: DomainChoice | Domain, rollouts: Sequence[Rollout]) -> list[Judgement]:
    """Lets a domain judge completions: one of a configuration, with its weights, or an object, with its own.

    Raises:
        DataError: the domain raised an error, or its verdicts are not what it declares.
        SandboxError: answers have to be run, and this system cannot do so.
    """
    if isinstance(domain, Domain):
        own, weights, name = domain, domain.parts, type(domain).__name__
    else:
        own, weights, name = make(domain), domain.weights, domain.name
    answers = [Answer(rollout.problem, rollout.reference, rollout.completion) for rollout in rollouts]
    found = require_verdicts(own, answers, name)
    return [
        Judgement(weigh(verdict.parts, weights), verdict.solved, verdict.parts, verdict.remark) for verdict in found
    ]


def update(
    policy: PolicyState,
    rollouts: Sequence[Rollout],
    rewards: Sequence[float | None],
    config: DistillConfig,
    *,
    base: PolicyState | None = None,
    scale_by_std: bool = False,
    seed: int = 0,
) -> EpochStats:
    """Trains a policy in place on a round's completions: `config.inner_steps` updates of the objective.

    Args:
        rollouts: whole groups, in any order.
        rewards: of each, None for one that cannot be judged and is left out of its group.
        base: what the objective pulls towards, if it does; None: the policy with its adapter switched off.
        scale_by_std: divide advantages by the group's standard deviation.

    Raises:
        ConfigError: a base is needed and not given, or the configuration wants several processes.
        DataError: rollouts and rewards do not belong together, or are not whole groups of one length.
        NonFiniteError: several updates in a row were not finite; the policy's weights are then of no use.
        OutOfMemoryError: there is not enough memory for a single completion, or group where it is compared within.
    """
    if config.compute.everywhere > 1:
        raise ConfigError(
            f"distill.compute asks for {config.compute.everywhere} processes, but this trains in one; set processes "
            "and nodes to 1, or use the workflow `train`"
        )
    if config.objective.needs_reference and base is None and not policy.denoiser.has_adapter:
        raise ConfigError(
            "the objective compares the policy with a base; give `base`, such as deepcopy(policy) before the first "
            "update, or an objective that reads none (reference_weight 0)"
        )
    group_size = sum(rollout.prompt_id == rollouts[0].prompt_id for rollout in rollouts)
    trained, stats = loop.distill(
        policy,
        base,
        _rewarded(rollouts, rewards, group_size, scale_by_std),
        config,
        round_index=policy.record.round,
        group_size=group_size,
        seed=seed,
        parent=None,
        evidence=None,
    )
    policy.record, policy.optimizer = trained.record, trained.optimizer
    return stats


def _rewarded(
    rollouts: Sequence[Rollout], rewards: Sequence[float | None], group_size: int, scale_by_std: bool
) -> pa.Table:
    """Returns the rows of `tables.REWARDED` in the pipeline's order."""
    if len(rollouts) != len(rewards) or not rollouts:
        raise DataError(f"there are {len(rollouts)} rollouts and {len(rewards)} rewards; give one reward for each")
    if strange := [type(value) for value in rewards if value is not None and not isinstance(value, Real)]:
        raise DataError(
            f"rewards are numbers, or None for what cannot be judged, not {strange[0].__module__}."
            f"{strange[0].__name__}; of a tensor give rewards.tolist()"
        )
    if wrong := [(place, value) for place, value in enumerate(rewards) if value is not None and not np.isfinite(value)]:
        place, value = wrong[0]
        raise DataError(
            f"{len(wrong)} rewards are not finite, the first {value} of rollout {place}; give None for what cannot be "
            "judged"
        )
    pairs = sorted(zip(rollouts, rewards, strict=True), key=lambda pair: (pair[0].prompt_id, pair[0].sample))
    require_groups([(rollout.prompt_id, rollout.sample) for rollout, _ in pairs], group_size)
    known = np.array([np.nan if value is None else value for _, value in pairs], np.float32)
    advantages = leave_one_out(known.reshape(-1, group_size), scale_by_std).flatten().tolist()
    rows = [
        vars(rollout) | {"reward": value, "advantage": None if math.isnan(advantage) else advantage}
        for (rollout, value), advantage in zip(pairs, advantages, strict=True)
    ]
    return pa.Table.from_pylist(rows, tables.REWARDED)
