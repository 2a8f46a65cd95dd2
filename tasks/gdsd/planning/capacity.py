"""Simulates how long a round takes on some GPUs, with each task in a pod of its own, and with fixed random numbers.

A round has a drift sample if an approximate engine makes the rollouts, then shards of rollouts on a GPU each, their
rewards, and the updates on the GPUs of one machine. Every task starts a pod, imports, loads what `plan.loads` says, and
works. A task whose machine is taken away starts again from its beginning, once another machine has come. The simulation
leaves out evaluations, which run beside the next round, what is written, and a store that slows down when many read.
"""

from collections.abc import Sequence
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
    taken: float = 0.02  # pre-emptions of a GPU in an hour, where the configuration allows spot machines
    replaced: float = 240.0  # seconds until there is another machine
    attempts: int = 3  # on machines that may be taken away; the next one is on another kind
    spread: float = 0.1  # standard deviation of the logarithm of a task's work
    again: float = 10e9  # bytes a second of files that another process of the machine has read
    verdicts: float = 1000.0  # a second


@dataclass(frozen=True)
class Stage:
    """Tasks that do not wait for one another; the next stage waits for all."""

    name: str
    before: float  # seconds of pod, imports and loads of each task
    work: tuple[float, ...]  # seconds of each task
    spot: bool  # whether machines may be taken away
    gpus: int = 1  # of each task, all of one machine


@dataclass(frozen=True)
class Capacity:
    """A round on some GPUs; work, overhead, stragglers and lost add up to the mean seconds."""

    gpus: int
    shards: int
    processes: int
    seconds: float  # mean
    slow: float  # what 19 of 20 rounds stay below
    work: float  # of the slowest task of each stage, without spread
    overhead: float  # of pods, imports and loads
    stragglers: float  # of waiting for the slowest
    lost: float  # to machines that were taken away
    held: float  # GPU-seconds, mean, with those of attempts that were lost
    stages: dict[str, float]  # mean seconds


def sized(config: TrainConfig, shards: int, processes: int) -> TrainConfig:
    """Returns the experiment with another number of shards and processes, which change no result."""
    rollout = config.rollout.model_copy(update={"shards": shards})
    compute = config.distill.compute.model_copy(update={"processes": processes, "nodes": 1})
    distill = config.distill.model_copy(update={"compute": compute})
    return config.model_copy(update={"rollout": rollout, "distill": distill})


def devices(config: TrainConfig, device: Device) -> int:
    """Returns how many devices an epoch has; processes on a CPU share it."""
    return config.distill.compute.everywhere if device.is_gpu else config.distill.compute.nodes


def stages(config: TrainConfig, found: Plan, device: Device, assumed: Assumptions) -> list[Stage]:
    """Returns the stages of a round, each of which is a task, or several."""
    rollout, processes = config.rollout, devices(config, device)
    prompts, shards = rollout.prompts_per_round, rollout.shards
    hardware, loads, start = config.hardware, found.loads, assumed.pod + assumed.imports
    load = loads.sampled / READ + loads.hashed / HASHED
    whole = found.rollout_seconds(device) / prompts
    rollouts = tuple(whole * len(range(shard, prompts, shards)) for shard in range(shards))
    # One process of the machine reads the disk, the others what it has read. The slowest has the most prompts.
    loading = loads.trained / processes * (1 / READ + (processes - 1) / assumed.again)
    loading += loads.epochs * loads.hashed / HASHED
    updates = found.distill_seconds(device) * ceil(prompts / processes) / prompts
    made = [
        Stage("drift", start + load, (found.drift_seconds(device),) * loads.drifts, hardware.rollout.spot),
        Stage("rollout", start + load, rollouts, hardware.rollout.spot),
        Stage("reward", start, (found.completions / assumed.verdicts,), hardware.scoring.spot, gpus=0),
        Stage("update", start + loading, (updates,), hardware.distill.spot, gpus=processes),
    ]
    return [stage for stage in made if stage.work]


def run(
    stage: Stage, gpus: int, assumed: Assumptions, factors: Sequence[float], loss: np.random.Generator
) -> tuple[float, float]:
    """Simulates a stage: whichever machine is free first takes the next task, and a lost one goes to the queue's end.

    Args:
        factors: how many times its work each task takes.
        loss: draws when machines are taken away.

    Returns:
        Its seconds, and the GPU-seconds that it held.
    """
    free = [0.0] * (max(1, gpus // stage.gpus) if stage.gpus else 1)
    waiting = [(0.0, index, 1) for index in range(len(stage.work))]
    heapify(waiting)
    done = held = 0.0
    while waiting:
        ready, index, attempt = heappop(waiting)
        begin, lasts = max(ready, free[0]), stage.before + stage.work[index] * factors[index]
        # A machine without a GPU is as easily lost as one with one.
        rate = assumed.taken * max(1, stage.gpus) / 3600 if stage.spot and attempt <= assumed.attempts else 0.0
        until = float(loss.exponential(1 / rate)) if rate else inf
        if until < lasts:
            heapreplace(free, begin + until + assumed.replaced)
            heappush(waiting, (begin + until, index, attempt + 1))
        else:
            heapreplace(free, begin + lasts)
            done = max(done, begin + lasts)
        held += min(until, lasts) * stage.gpus
    return done, held


def simulate(made: Sequence[Stage], gpus: int, assumed: Assumptions, draws: int = 1) -> np.ndarray:
    """Returns seconds and GPU-seconds of each stage in each of some rounds: (draws, stages, 2).

    Rounds come in pairs: where a task is slow in one it is quick in the other, so that means need fewer of them.
    """
    found, spread = [], assumed.spread
    for draw in range(draws):
        work, loss = np.random.default_rng([0, draw // 2, 0]), np.random.default_rng([0, draw, 1])
        for stage in made:
            normal = work.standard_normal(len(stage.work)) * (-1) ** draw
            factors = np.exp(spread * normal - spread**2 / 2).tolist()  # of mean 1
            found.append(run(stage, gpus, assumed, factors, loss))
    return np.array(found).reshape(draws, len(made), 2)


def capacity(
    config: TrainConfig, shape: Shape, family: Family, device: Device, gpus: int, assumed: Assumptions, draws: int = 200
) -> Capacity:
    """Simulates rounds on some GPUs: a shard for each, and updates on the part of one machine that is quickest."""
    firm = replace(assumed, taken=0.0)
    still = replace(firm, spread=0.0)
    shards = min(gpus, config.rollout.prompts_per_round)
    most = min(shards, MOST_GPUS.get(config.hardware.distill.kind, 8))
    options = []
    for processes in (2**power for power in range(most.bit_length())):
        changed = sized(config, shards, processes)
        made = stages(changed, plan(changed, shape, family, device.is_gpu), device, assumed)
        options.append((simulate(made, gpus, still)[..., 0].sum(), processes, made))
    quickest, processes, made = min(options, key=lambda option: option[:2])
    work = simulate([replace(stage, before=0.0) for stage in made], gpus, still)[..., 0].sum()
    undisturbed = simulate(made, gpus, firm, draws)[..., 0].sum(1).mean()
    rounds = simulate(made, gpus, assumed, draws)
    seconds = rounds[..., 0].sum(1)
    return Capacity(
        gpus=gpus,
        shards=shards,
        processes=processes,
        seconds=float(seconds.mean()),
        slow=float(np.quantile(seconds, 0.95)),
        work=float(work),
        overhead=float(quickest - work),
        stragglers=float(undisturbed - quickest),
        lost=float(seconds.mean() - undisturbed),
        held=float(rounds[..., 1].sum(1).mean()),
        stages=dict(zip((stage.name for stage in made), rounds[..., 0].mean(0).tolist(), strict=True)),
    )
