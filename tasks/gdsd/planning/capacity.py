"""How long a round takes on a cluster: a simulation of its tasks, each in a pod of its own, with fixed random numbers.

A round is a drift sample where there is an approximate engine, shards of rollouts on a GPU each, their scoring, and the
updates on the GPUs of one machine. Every task starts a pod, imports, loads what `plan.loads` says, and works. A task
whose machine is taken away starts again from its beginning, once another machine has come. Left out: evaluations, which
run beside the next round, what is written, and a store that slows down when many read at once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush, heapreplace
from math import ceil, inf

import numpy as np

from tasks.gdsd.config.hardware import MOST_GPUS
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.denoiser.families.base import Family
from tasks.gdsd.planning.plan import HASHED, READ, Plan, plan
from tasks.gdsd.planning.shapes import Shape
from tasks.gdsd.planning.work import Device


@dataclass(frozen=True)
class Assumptions:
    """What is not in the plan; docs/capacity.md has the sources."""

    pod: float = 15.0  # seconds until a pod runs, on a machine that is up and has the image
    imports: float = 12.0  # seconds of a task that are neither a pod's start, nor a load, nor work
    again: float = 10e9  # bytes a second of files that another process of the machine has read
    verdicts: float = 1000.0  # of the scoring, a second
    spread: float = 0.1  # standard deviation of the logarithm of a task's work
    taken: float = 0.02  # pre-emptions of a GPU in an hour, where the configuration allows spot machines
    replaced: float = 240.0  # seconds until there is another machine
    attempts: int = 3  # on machines that may be taken away; the next one is on another kind

    @property
    def start(self) -> float:
        """Seconds of a task before it loads anything."""
        return self.pod + self.imports


SERIAL = Assumptions(pod=0.0, imports=0.0, verdicts=inf, spread=0.0, taken=0.0)  # nothing but what the plan has


@dataclass(frozen=True)
class Task:
    """A task on some GPUs of one machine."""

    before: float  # seconds of pod, imports and loads
    work: float
    gpus: int = 1


@dataclass(frozen=True)
class Stage:
    """Tasks that do not wait for one another; the next stage waits for all."""

    name: str
    tasks: tuple[Task, ...]
    spot: bool  # whether machines may be taken away


@dataclass(frozen=True)
class Outcome:
    """A simulated stage."""

    seconds: float
    held: float  # GPU-seconds, with those of attempts that were lost


@dataclass(frozen=True)
class Capacity:
    """A round on some GPUs; the four parts add up to the mean seconds."""

    gpus: int
    shards: int
    processes: int
    seconds: float  # mean
    slow: float  # what 19 of 20 rounds stay below
    work: float  # of the slowest task of each stage, without spread
    overhead: float  # of pods, imports and loads
    stragglers: float  # of waiting for the slowest
    lost: float  # to machines that were taken away
    held: float  # GPU-seconds, mean
    stages: dict[str, float]  # mean seconds


def sized(config: TrainConfig, shards: int, processes: int) -> TrainConfig:
    """Returns the experiment with another number of shards and processes, which change no result."""
    rollout = config.rollout.model_copy(update={"shards": shards})
    compute = config.distill.compute.model_copy(update={"processes": processes, "nodes": 1})
    distill = config.distill.model_copy(update={"compute": compute})
    return config.model_copy(update={"rollout": rollout, "distill": distill})


def stages(config: TrainConfig, found: Plan, device: Device, assumed: Assumptions) -> list[Stage]:
    """Returns the stages of a round; `found` is the plan of the same configuration."""
    prompts, shards = config.rollout.prompts_per_round, config.rollout.shards
    processes, hardware, loads = config.distill.compute.everywhere, config.hardware, found.loads
    load = loads.sampled / READ + loads.hashed / HASHED
    whole = found.rollout_seconds(device)
    sizes = [len(range(shard, prompts, shards)) for shard in range(shards)]
    # The slowest process has the most prompts.
    updating = found.distill_seconds(device) * ceil(prompts / processes) / prompts
    loading = loads.trained / processes * (1 / READ + (processes - 1) / assumed.again)
    loading += loads.epochs * loads.hashed / HASHED
    drift = [Task(assumed.start + load, found.drift_seconds(device))] if loads.drifts else []
    made = [
        Stage("drift", tuple(drift), hardware.rollout.spot),
        Stage(
            "rollout",
            tuple(Task(assumed.start + load, whole * size / prompts) for size in sizes),
            hardware.rollout.spot,
        ),
        Stage("scoring", (Task(assumed.start, found.completions / assumed.verdicts, 0),), hardware.scoring.spot),
        Stage("update", (Task(assumed.start + loading, updating, processes),), hardware.distill.spot),
    ]
    return [stage for stage in made if stage.tasks]


def run(stage: Stage, gpus: int, assumed: Assumptions, factors: Sequence[float], loss: np.random.Generator) -> Outcome:
    """Simulates a stage: whichever machine is free first takes the next task, and a lost one goes to the queue's end.

    Args:
        factors: how many times its work each task takes.
        loss: draws when machines are taken away.
    """
    most = max(task.gpus for task in stage.tasks)
    free = [0.0] * max(1, gpus // most if most else 1)
    waiting = [(0.0, index, 1) for index in range(len(stage.tasks))]
    heapify(waiting)
    done = held = 0.0
    while waiting:
        ready, index, attempt = heappop(waiting)
        task = stage.tasks[index]
        begin, lasts = max(ready, free[0]), task.before + task.work * factors[index]
        # A machine without a GPU is one that is as easily lost as one with one.
        rate = assumed.taken * max(1, task.gpus) / 3600 if stage.spot and attempt <= assumed.attempts else 0.0
        until = float(loss.exponential(1 / rate)) if rate else inf
        if until < lasts:
            heapreplace(free, begin + until + assumed.replaced)
            heappush(waiting, (begin + until, index, attempt + 1))
        else:
            heapreplace(free, begin + lasts)
            done = max(done, begin + lasts)
        held += min(until, lasts) * task.gpus
    return Outcome(done, held)


def simulate(made: Sequence[Stage], gpus: int, assumed: Assumptions, draws: int, seed: int) -> list[list[Outcome]]:
    """Returns the outcomes of each stage in each of some rounds. Only the seed says what is drawn.

    Rounds come in pairs: where a task is slow in one it is quick in the other, so that means need fewer of them.
    """
    found, spread = [], assumed.spread
    for draw in range(draws):
        work, loss = np.random.default_rng([seed, draw // 2, 0]), np.random.default_rng([seed, draw, 1])
        outcomes = []
        for stage in made:
            normal = work.standard_normal(len(stage.tasks)) * (-1) ** draw
            factors = np.exp(spread * normal - spread**2 / 2).tolist()  # of mean 1
            outcomes.append(run(stage, gpus, assumed, factors, loss))
        found.append(outcomes)
    return found


def closed_form(made: Sequence[Stage], gpus: int) -> float:
    """Returns the seconds of a round without spread and losses."""
    (found,) = simulate(made, gpus, SERIAL, 1, 0)
    return sum(outcome.seconds for outcome in found)


def candidates(config: TrainConfig, gpus: int) -> Iterator[tuple[int, int]]:
    """Yields (shards, processes) for some GPUs: a shard for each, and updates on any part of one machine."""
    prompts = config.rollout.prompts_per_round
    most = min(gpus, prompts, MOST_GPUS.get(config.hardware.distill.kind, 8))
    processes = 1
    while processes <= most:
        yield min(gpus, prompts), processes
        processes *= 2


def capacity(
    config: TrainConfig,
    shape: Shape,
    family: Family,
    device: Device,
    gpus: int,
    assumed: Assumptions | None = None,
    *,
    prompt: int | None = None,
    draws: int = 200,
    seed: int = 0,
) -> Capacity:
    """Simulates rounds on some GPUs, with the shards and processes that are quickest without spread and losses.

    Args:
        prompt: tokens of a prompt; estimated where it is None.
    """
    assumed = Assumptions() if assumed is None else assumed
    options = []
    for shards, processes in candidates(config, gpus):
        chosen = sized(config, shards, processes)
        found = plan(chosen, shape, family, device.is_gpu, prompt)
        made = stages(chosen, found, device, assumed)
        options.append((closed_form(made, gpus), processes, shards, made))
    quickest, processes, shards, made = min(options, key=lambda option: option[:2])
    idle = [replace(stage, tasks=tuple(replace(task, before=0.0) for task in stage.tasks)) for stage in made]
    work = closed_form(idle, gpus)
    kept = simulate(made, gpus, replace(assumed, taken=0.0), draws, seed)
    rounds = simulate(made, gpus, assumed, draws, seed)
    undisturbed = float(np.mean([sum(outcome.seconds for outcome in outcomes) for outcomes in kept]))
    seconds = [sum(outcome.seconds for outcome in outcomes) for outcomes in rounds]
    return Capacity(
        gpus=gpus,
        shards=shards,
        processes=processes,
        seconds=float(np.mean(seconds)),
        slow=float(np.quantile(seconds, 0.95)),
        work=work,
        overhead=quickest - work,
        stragglers=undisturbed - quickest,
        lost=float(np.mean(seconds)) - undisturbed,
        held=float(np.mean([sum(outcome.held for outcome in outcomes) for outcomes in rounds])),
        stages={
            stage.name: float(np.mean([outcomes[index].seconds for outcomes in rounds]))
            for index, stage in enumerate(made)
        },
    )


def table(found: Sequence[Capacity]) -> str:
    """Returns the table of some capacities, in Markdown."""
    head = [
        "GPUs",
        "shards",
        "GPUs of updates",
        "seconds a round",
        "95 % below",
        "rollouts",
        "updates",
        "work",
        "overhead",
        "stragglers",
        "lost",
        "GPU-hours of 100 rounds",
    ]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for each in found:
        shares = [part / each.seconds for part in (each.work, each.overhead, each.stragglers, each.lost)]
        cells = [
            *(str(number) for number in (each.gpus, each.shards, each.processes)),
            *(f"{seconds:.0f}" for seconds in (each.seconds, each.slow, each.stages["rollout"], each.stages["update"])),
            *(f"{round(share, 2) + 0.0:.0%}" for share in shares),  # without the sign of a negative zero
            f"{each.held / 36:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
