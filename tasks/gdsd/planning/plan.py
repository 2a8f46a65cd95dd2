"""The plan of a run: memory by stage, and the hours of computing and of loading the model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from tasks.gdsd.config.model_source import ModelFolder
from tasks.gdsd.config.sampler import ExactConfig
from tasks.gdsd.config.train import DistillConfig, RolloutConfig, TrainConfig
from tasks.gdsd.denoiser.families.base import Family
from tasks.gdsd.domains import make
from tasks.gdsd.planning.memory import FLOAT, GIB, HALF, Memory, beside, of_epoch, of_sampling, staying
from tasks.gdsd.planning.shapes import Shape
from tasks.gdsd.planning.work import Device, Work, completion, epoch, may_end_early, micro_batch

LETTERS_PER_TOKEN, TEMPLATE_TOKENS = 3.5, 16  # of English in the published vocabularies; a chat template's own tokens
# Bytes a second. Both are assumptions: of a local disk that reads or writes and a store that files are sent to, and of
# four cores at what one was measured to hash.
READ, HASHED = 1e9, 4 * 1.3e9
LONGEST = 25  # rounds in a leg, see workflows.rounds


@dataclass(frozen=True)
class Loads:
    """How often tasks load the model, and what a load reads. Each task is taken to be a process of its own."""

    rollouts: int  # of a round: its shards
    drifts: int  # of a round: one where an approximate engine is compared
    epochs: int  # of a round: its processes, twice where each reads a reference too
    evaluations: int  # of the run: shards of all evaluations
    sampled: float  # bytes that a load for rollouts or evaluations reads
    trained: float  # bytes that those of an epoch read together, moments and all
    hashed: float  # bytes that each load hashes: of a model in a local folder
    written: float  # bytes of a round's checkpoint, with the moments

    @property
    def of_round(self) -> int:
        return self.rollouts + self.drifts + self.epochs

    @property
    def round_seconds(self) -> float:
        read = (self.rollouts + self.drifts) * self.sampled + self.trained
        return read / READ + self.of_round * self.hashed / HASHED

    @property
    def task_seconds(self) -> float:
        """Seconds of a task of several rounds."""
        return self.trained / READ + self.epochs * self.hashed / HASHED

    @property
    def evaluation_seconds(self) -> float:
        return self.evaluations * (self.sampled / READ + self.hashed / HASHED)


@dataclass(frozen=True)
class Plan:
    """What a run needs on each device, and for how long."""

    family: str
    parameters: int  # of the base
    adapter: int  # weights of an adapter, which is then all that is trained; 0 without one
    prompt_tokens: int
    completions: int  # of a round
    micro_batch: int  # completions per forward and backward pass
    rollout: Memory  # also of drift samples
    distill: Memory
    evaluation: Memory
    rollout_work: Work  # of a round
    drift_work: Work  # of a round, as long as the run has not gone back to the exact engine
    distill_work: Work  # of a round
    evaluation_work: Work  # of all evaluations of the run
    loads: Loads
    rounds: int
    tasks: int  # of several rounds, with the policy in memory; 0: each stage of a round is a task
    may_end_early: bool  # whether completions may take less than is counted
    halves: bool  # whether the network computes in bfloat16
    distill_halves: bool

    def rollout_seconds(self, device: Device) -> float:
        """Returns the device-seconds of a round's rollouts."""
        return self.rollout_work.seconds(device, self.halves)

    def drift_seconds(self, device: Device) -> float:
        """Returns the device-seconds of a round's drift sample, which both engines complete."""
        return self.drift_work.seconds(device, self.halves)

    def distill_seconds(self, device: Device) -> float:
        """Returns the device-seconds of a round's updates."""
        return self.distill_work.seconds(device, self.distill_halves)

    def evaluation_hours(self, device: Device) -> float:
        """Returns the device-hours of all evaluations of the run, with their loads."""
        return (self.evaluation_work.seconds(device, self.halves) + self.loads.evaluation_seconds) / 3600

    @property
    def load_hours(self) -> float:
        """Device-hours of all loads of the run."""
        loads = self.loads
        of_rounds = self.tasks * loads.task_seconds if self.tasks else self.rounds * loads.round_seconds
        return (of_rounds + loads.evaluation_seconds) / 3600

    def round_seconds(self, device: Device) -> float:
        """Returns the device-seconds of a round's work."""
        return self.rollout_seconds(device) + self.drift_seconds(device) + self.distill_seconds(device)

    def hours(self, device: Device) -> float:
        """Returns the device-hours of the whole run: work and loads."""
        work = self.rounds * self.round_seconds(device) + self.evaluation_work.seconds(device, self.halves)
        return work / 3600 + self.load_hours

    @property
    def peak(self) -> float:
        """Bytes that a device needs."""
        return max(self.rollout.total, self.distill.total, self.evaluation.total)


def prompt_tokens(config: TrainConfig, family: Family) -> int:
    """Estimates the tokens of a prompt from the domain's example; data sets have longer and shorter ones."""
    domain = make(config.prompts.domain)
    text = domain.phrase(domain.example.problem)
    if family.name == "tiny":
        return len(text)
    digits = sum(letter.isdigit() for letter in text)  # each a token of its own
    return ceil((len(text) - digits) / LETTERS_PER_TOKEN) + digits + TEMPLATE_TOKENS


def plan(
    config: TrainConfig,
    shape: Shape,
    family: Family,
    is_gpu: bool = True,
    prompt: int | None = None,
    evaluated: Sequence[int] | None = None,
) -> Plan:
    """Plans a run.

    Args:
        prompt: tokens of a prompt; by default they are estimated.
        evaluated: problems of each evaluation; by default those of `evaluations`.
    """
    evaluated = evaluations(config) if evaluated is None else evaluated
    prompt = prompt_tokens(config, family) if prompt is None else prompt
    policy, rollout, distill, evaluation = config.policy, config.rollout, config.distill, config.evaluation
    b = HALF if is_gpu and family.name != "tiny" else FLOAT
    adapter = 0 if policy.adapter is None else shape.adapter(policy.adapter)
    frozen = beside(policy.adapter, b)
    sampler, engine = family.sampler.fill(rollout.sampler), rollout.engine.root
    answering = family.sampler.fill(evaluation.sampler)
    completions = rollout.prompts_per_round * rollout.group_size
    share = ceil(rollout.prompts_per_round / distill.compute.everywhere) * rollout.group_size
    one, exact = (completion(shape, prompt, sampler, frozen, each) for each in (engine, ExactConfig()))
    answer = completion(shape, prompt, answering, frozen, evaluation.engine)
    sampled = of_sampling(shape, together(rollout), prompt, sampler, b, policy.adapter, engine, is_gpu)
    answers = min(evaluation.batch_size, ceil(max(evaluated) / evaluation.shards) * evaluation.samples)
    goes_on = policy.stored_adapter == "continue"
    trained, whole = (
        of_epoch(shape, each, share, rollout.group_size, prompt, sampler, b, policy.adapter, goes_on)
        for each in (distill, unspread(distill))
    )
    if config.rounds_per_task > 1:
        sampled = staying(sampled, whole, shape, distill, b, policy.adapter)
    # The products of what is trained are in the configured precision, those of a frozen base in its own.
    lowers = distill.compute.precision == "bfloat16" or (b == HALF and policy.adapter is not None)
    return Plan(
        family=family.name,
        parameters=shape.parameters,
        adapter=adapter,
        prompt_tokens=prompt,
        completions=completions,
        micro_batch=micro_batch(distill, rollout.group_size, share, prompt, sampler),
        rollout=sampled,
        distill=trained,
        evaluation=of_sampling(shape, answers, prompt, answering, b, policy.adapter, evaluation.engine, is_gpu),
        rollout_work=one * completions,
        drift_work=(one + exact) * compared(rollout),
        distill_work=epoch(shape, distill, completions, prompt, sampler, adapter),
        evaluation_work=answer * (evaluation.samples * sum(evaluated)),
        loads=loads(config, shape, adapter, len(evaluated)),
        rounds=config.rounds,
        tasks=resident_tasks(config, config.rounds_per_task) if config.rounds_per_task > 1 else 0,
        may_end_early=may_end_early(sampler, engine) or may_end_early(answering, evaluation.engine),
        halves=b == HALF,
        distill_halves=is_gpu and lowers,
    )


def loads(config: TrainConfig, shape: Shape, adapter: int, evaluations: int) -> Loads:
    """Counts the loads of a run's tasks, with so many evaluations.

    A published model lies in half precision on the disk, and is read by every task that needs the policy. A policy
    whose own weights are trained is float32 from the first round on.
    """
    policy, distill = config.policy, config.distill
    published = shape.parameters * (FLOAT if policy.model is None else HALF)
    own = published + adapter * FLOAT if adapter else shape.parameters * FLOAT
    moments = (2 + (distill.ema_decay > 0)) * FLOAT * (adapter or shape.parameters)
    reads_base = distill.objective.needs_reference and not adapter
    hashes = isinstance(policy.model, ModelFolder) and adapter
    return Loads(
        rollouts=config.rollout.shards,
        drifts=int(config.rollout.engine.drift is not None),
        epochs=distill.compute.everywhere * (1 + reads_base),
        evaluations=evaluations * config.evaluation.shards,
        sampled=own,
        trained=distill.compute.everywhere * (own + moments + published * reads_base),
        hashed=published if hashes else 0.0,
        written=(adapter or shape.parameters) * FLOAT + moments,
    )


def compared(rollout: RolloutConfig) -> int:
    """Returns the completions of a round's drift sample."""
    return 0 if rollout.engine.drift is None else rollout.engine.drift.sample


def together(rollout: RolloutConfig) -> int:
    """Returns how many completions are sampled at a time, in rollouts or the drift sample."""
    share = ceil(rollout.prompts_per_round / rollout.shards) * rollout.group_size
    return min(rollout.batch_size, max(share, compared(rollout)))


def unspread(distill: DistillConfig) -> DistillConfig:
    """Returns the same with all weights whole in each process, as they are between the epochs of rounds in memory."""
    return distill.model_copy(update={"compute": distill.compute.model_copy(update={"sharding": "none"})})


def task_size(config: TrainConfig) -> int:
    """Returns how many rounds are one task: as configured, or where each stage is one, as many as could be."""
    return config.rounds_per_task if config.rounds_per_task > 1 else max(2, min(config.validate_every, LONGEST))


def resident_tasks(config: TrainConfig, size: int) -> int:
    """Counts the tasks of so many rounds: none goes beyond a validation, or beyond a leg of the workflow."""

    def until_validation(rounds: int) -> int:
        return sum(ceil(min(LONGEST, rounds - first) / size) for first in range(0, rounds, LONGEST))

    whole, rest = divmod(config.rounds, config.validate_every)
    return whole * until_validation(config.validate_every) + until_validation(rest)


def evaluations(config: TrainConfig) -> list[int]:
    """Returns the problems of each evaluation of a run: its validations, and test and guards before and after."""
    tested = [config.prompts.test_size, *(guard.test_size for guard in config.judge.guards.values())]
    return [config.prompts.validation_size] * ceil(config.rounds / config.validate_every) + tested * 2


def table(memory: Mapping[str, Memory]) -> list[tuple[str, list[float]]]:
    """Returns the rows of a table of GiB: one per kind that is not nothing everywhere, then the sums."""
    kinds = [name for name in vars(next(iter(memory.values()))) if any(vars(item)[name] for item in memory.values())]
    found = [(kind, [vars(item)[kind] / GIB for item in memory.values()]) for kind in kinds]
    return [*found, ("peak", [item.total / GIB for item in memory.values()])]
