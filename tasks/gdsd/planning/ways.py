"""A run on a cluster both ways: with each stage of a round as a task, or with rounds that stay in memory.

Both are on one kind of device. Machines come at once and stay, and all tasks of a stage run beside one another. Left
out are the time of Flyte itself, of checks and tables, and the preparation of prompts and policy.
"""

from dataclasses import dataclass

from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.domains.code import CodeConfig
from tasks.gdsd.planning.capacity import Assumptions, Stage, devices, stages
from tasks.gdsd.planning.plan import HASHED, READ, Plan, resident_tasks, task_size
from tasks.gdsd.planning.work import Device

HOUR = 3600.0
STAGED_WRITES = 2  # how often a round writes its checkpoint: on the disk, and to the store
RESIDENT_WRITES = 3  # and into the archive that is sent, see resident.state


@dataclass(frozen=True)
class Way:
    """What a run takes: device-hours by what they go to, hours by the clock, and money."""

    work: float  # rollouts, drift samples, updates, and answers of evaluations
    starts: float  # of pods, until a task's own work begins
    loads: float
    writes: float
    waits: float  # for the slowest process, for the one that compares engines, and in memory for verdicts
    clock: float
    money: float | None  # None where a machine with a policy has no price
    pods: int  # of rounds, that hold a device
    held: int  # devices of the pod that updates

    @property
    def hours(self) -> float:
        """Device-hours that the pods hold."""
        return self.work + self.starts + self.loads + self.writes + self.waits


@dataclass(frozen=True)
class _Answering:
    """All evaluations of a run, which are the same either way; in seconds of devices and of the clock."""

    work: float
    loads: float
    starts: float
    clock: float  # one after the other
    scoring: float  # of the machine that judges

    @property
    def held(self) -> float:
        return self.work + self.loads + self.starts


def why_not_resident(config: TrainConfig) -> str | None:
    """Says why the rounds of an experiment cannot stay in memory, or None if they can."""
    compute, domain = config.distill.compute, config.prompts.domain.root
    if compute.nodes > 1:
        return f"its {compute.nodes} machines for an epoch have no memory in common"
    if config.rollout.shards % compute.processes:
        return f"{config.rollout.shards} rollout.shards do not go among {compute.processes} processes"
    if isinstance(domain, CodeConfig) and domain.isolation == "full" and config.hardware.distill.kind != "cpu":
        return "code is run in isolation, which needs bubblewrap, and the image for GPUs has none"
    return None


def staged(config: TrainConfig, found: Plan, device: Device, assumed: Assumptions) -> Way:
    """Plans the run with each stage of a round as a task of its own."""
    rounds, start, number = found.rounds, assumed.pod + assumed.imports, devices(config, device)
    made = {stage.name: stage for stage in stages(config, found, device, assumed)}
    sampling = sum(_held(made[name]) for name in ("drift", "rollout") if name in made)
    writes = STAGED_WRITES * found.loads.written / READ
    updating = _held(made["update"]) + number * writes
    pods = sum(len(stage.work) for stage in made.values() if stage.gpus)
    held = sum(len(stage.work) * stage.gpus for stage in made.values())
    work, evaluations = found.round_seconds(device), _evaluations(config, found, device, assumed)
    clock = sum(stage.before + max(stage.work) for stage in made.values()) + writes
    idle = number * made["update"].work[0] - found.distill_seconds(device)
    before = sum(stage.gpus * len(stage.work) * stage.before for stage in made.values())
    return Way(
        work=(rounds * work + evaluations.work) / HOUR,
        starts=(rounds * held * start + evaluations.starts) / HOUR,
        loads=(rounds * (before - held * start) + evaluations.loads) / HOUR,
        writes=rounds * number * writes / HOUR,
        waits=rounds * idle / HOUR,
        clock=(rounds * clock + evaluations.clock) / HOUR,
        money=_money(config, rounds * sampling, rounds * updating, evaluations, rounds * _seconds(made["reward"])),
        pods=rounds * pods,
        held=number,
    )


def resident(config: TrainConfig, found: Plan, device: Device, assumed: Assumptions) -> Way:
    """Plans the run with as many rounds as one task as configured, or as go into one where that is none."""
    rounds, start, number = found.rounds, assumed.pod + assumed.imports, devices(config, device)
    made = {stage.name: stage for stage in stages(config, found, device, assumed)}
    tasks = resident_tasks(config, task_size(config))
    shards, update = made["rollout"].work, made["update"].work[0]
    sampling = max(sum(shards[process::number]) for process in range(number))
    writes = RESIDENT_WRITES * found.loads.written / READ
    clock = found.drift_seconds(device) + sampling + sum(made["reward"].work) + update
    work, evaluations = found.round_seconds(device), _evaluations(config, found, device, assumed)
    loads = made["update"].before - start
    together = tasks * (start + loads) + rounds * (clock + writes)
    return Way(
        work=(rounds * work + evaluations.work) / HOUR,
        starts=(tasks * number * start + evaluations.starts) / HOUR,
        loads=(tasks * number * loads + evaluations.loads) / HOUR,
        writes=rounds * number * writes / HOUR,
        waits=rounds * (number * clock - work) / HOUR,
        clock=(together + evaluations.clock) / HOUR,
        money=_money(config, 0.0, number * together, evaluations, 0.0),
        pods=tasks,
        held=number,
    )


def _seconds(stage: Stage) -> float:
    """Returns the seconds of all tasks of a stage."""
    return sum(stage.before + work for work in stage.work)


def _held(stage: Stage) -> float:
    """Returns the device-seconds that a stage's pods hold."""
    return stage.gpus * _seconds(stage)


def _evaluations(config: TrainConfig, found: Plan, device: Device, assumed: Assumptions) -> _Answering:
    loads, shards, start = found.loads, config.evaluation.shards, assumed.pod + assumed.imports
    load, count = loads.sampled / READ + loads.hashed / HASHED, loads.evaluations / shards
    work = found.evaluation_work.seconds(device, found.halves)
    return _Answering(
        work=work,
        loads=loads.evaluations * load,
        starts=loads.evaluations * start,
        clock=work / shards + count * (load + 2 * start),
        scoring=count * start,
    )


def _money(
    config: TrainConfig, rollout: float, distill: float, evaluations: _Answering, scoring: float
) -> float | None:
    """Returns what seconds of each kind of machine cost, where those with a policy have a price."""
    hardware = config.hardware
    used = [(hardware.evaluation.price, evaluations.held), (hardware.distill.price, distill)]
    used += [(hardware.rollout.price, rollout)] if rollout else []
    if any(price is None for price, _ in used):
        return None
    used.append((hardware.scoring.price, scoring + evaluations.scoring))
    return sum(price * seconds for price, seconds in used if price is not None) / HOUR
