"""The simulation of rounds on a cluster, against what can be said without one."""

from dataclasses import replace
from math import exp, inf
from pathlib import Path

import numpy as np
import pytest
import yaml

from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.planning import capacity as capacities
from tasks.gdsd.planning.capacity import SERIAL, Assumptions, Capacity, Stage, Task, capacity
from tasks.gdsd.planning.plan import READ, Plan, plan
from tasks.gdsd.planning.shapes import shape_of
from tasks.gdsd.planning.work import DEVICES

RECIPE = yaml.safe_load((Path(__file__).resolve().parents[3] / "configs/llada_sudoku.yaml").read_text())
H100 = DEVICES["h100"]
STILL = Assumptions(spread=0.0, taken=0.0)


def recipe(prompts: int = 16, **rollout: object) -> TrainConfig:
    return TrainConfig.model_validate(
        RECIPE | {"rollout": RECIPE["rollout"] | {"prompts_per_round": prompts} | rollout}
    )


def planned(config: TrainConfig) -> Plan:
    family, shape = shape_of(config.policy)
    return plan(config, shape, family)


def on(gpus: int, assumed: Assumptions, config: TrainConfig | None = None, draws: int = 2, seed: int = 0) -> Capacity:
    config = recipe() if config is None else config
    family, shape = shape_of(config.policy)
    return capacity(config, shape, family, H100, gpus, assumed, draws=draws, seed=seed)


@pytest.mark.parametrize("engine", [{"name": "exact"}, {"name": "dual_cache"}])
def test_one_gpu_takes_the_time_of_the_plan(engine: dict[str, str]) -> None:
    """If it fails, the two commands that say how long a run takes disagree."""
    config = recipe(engine=engine)
    whole = planned(capacities.sized(config, shards=1, processes=1))
    serial = whole.rollout_seconds(H100) + whole.distill_seconds(H100) + whole.loads.round_seconds
    found = on(1, SERIAL, config)
    assert found.seconds == found.slow == pytest.approx(serial + whole.drift_seconds(H100))
    assert found.held == pytest.approx(found.seconds) and (found.shards, found.processes) == (1, 1)


def test_without_chance_a_round_is_a_sum() -> None:
    """If it fails, a stage is simulated as something else than tasks in pods.

    16 problems on 4 GPUs: a start, a load, and 4 problems' rollouts; a start and the scoring of 96 completions; a
    start, a load and a quarter of the updates. Of the four processes one reads the disk, three what it has read.
    """
    assumed = replace(STILL, pod=20.0, imports=5.0, again=2e9, verdicts=10.0)
    found, one = on(4, assumed), planned(capacities.sized(recipe(), shards=4, processes=4))
    assert (found.shards, found.processes) == (4, 4)
    rollout = 25 + one.loads.sampled / READ + one.rollout_seconds(H100) / 4
    update = 25 + one.loads.trained / 4 / READ * (1 + 3 / 2) + one.distill_seconds(H100) / 4
    assert found.stages == pytest.approx({"rollout": rollout, "scoring": 25 + 9.6, "update": update})
    assert found.work == pytest.approx(one.rollout_seconds(H100) / 4 + 9.6 + one.distill_seconds(H100) / 4)
    assert found.stragglers == pytest.approx(0.0) and found.lost == 0.0
    assert found.held == pytest.approx(4 * rollout + 4 * update)


def test_more_tasks_than_gpus_take_turns() -> None:
    """If it fails, shards that wait for a GPU take no time. Five tasks of 5 s on two GPUs take three turns."""
    tasks = Stage("rollout", (Task(2.0, 3.0),) * 5, spot=True)
    assert capacities.closed_form([tasks], 2) == 15.0
    uneven = Stage("rollout", tuple(Task(0.0, work) for work in (8.0, 1.0, 1.0, 1.0)), spot=True)
    assert capacities.closed_form([uneven], 2) == 8.0


def test_more_gpus_are_never_slower_nor_quicker_than_what_is_serial() -> None:
    """If it fails, the plan sends a person to a size of the cluster that is worse than a smaller one, or promises too
    much: one machine's updates and one problem's rollouts remain."""
    config = recipe(128)
    found = [on(2**power, STILL, config) for power in range(10)]
    seconds = [each.seconds for each in found]
    assert seconds == sorted(seconds, reverse=True)
    best = planned(capacities.sized(config, shards=128, processes=8))
    least = best.rollout_seconds(H100) / 128 + best.distill_seconds(H100) / 8 + best.loads.sampled / READ
    assert seconds[-1] > least + 3 * STILL.start
    assert [each.shards for each in found[-3:]] == [128, 128, 128] and {each.processes for each in found[3:]} == {8}
    assert seconds[-1] == pytest.approx(seconds[-3])


def test_the_parts_are_the_whole() -> None:
    """If it fails, shares of a round do not add up, or time is blamed on what took none of it."""
    found = on(8, Assumptions(taken=1.0), recipe(128), draws=40)
    assert found.work + found.overhead + found.stragglers + found.lost == pytest.approx(found.seconds)
    assert min(found.work, found.overhead, found.stragglers, found.lost) > 0 and found.slow > found.seconds
    assert sum(found.stages.values()) == pytest.approx(found.seconds)


def test_the_slowest_shard_is_waited_for() -> None:
    """If it fails, machines of different speed cost nothing.

    The largest of 64 normal numbers is 2.39 on average; of exp(0.1 z - 0.005) that is about exp(0.234) = 1.26.
    """
    stage = Stage("rollout", (Task(0.0, 1.0),) * 64, spot=False)
    rounds = capacities.simulate([stage], 64, replace(STILL, spread=0.1), 200, seed=0)
    assert np.mean([outcome.seconds for (outcome,) in rounds]) == pytest.approx(1.26, abs=0.02)


def test_lost_attempts_are_made_again() -> None:
    """If it fails, spot machines cost less than they do, or more.

    A task of d seconds whose machine is lost at a rate r, and back after w, takes (1 / r + w) (exp(r d) - 1) on
    average, of which the GPU is held for (exp(r d) - 1) / r. Here r d is 1. The last attempt is not lost: with none
    before it, a task takes d.
    """
    stage = [Stage("update", (Task(100.0, 260.0, gpus=2),), spot=True)]
    assumed = replace(STILL, taken=5.0, replaced=30.0, attempts=1000)  # of two GPUs, 10 an hour
    rounds = capacities.simulate(stage, 2, assumed, 4000, seed=0)
    growth = exp(1.0) - 1
    assert np.mean([outcome.seconds for (outcome,) in rounds]) == pytest.approx((360 + 30) * growth, rel=0.05)
    assert np.mean([outcome.held for (outcome,) in rounds]) == pytest.approx(2 * 360 * growth, rel=0.05)
    for kept in (replace(assumed, attempts=0), replace(assumed, taken=0.0)):
        assert [outcome.seconds for ((outcome,),) in [capacities.simulate(stage, 2, kept, 1, 0)]] == [360.0]


def test_machines_that_are_not_spot_are_not_lost() -> None:
    """If it fails, `spot: false` has no effect on the plan."""
    roles = ("rollout", "distill", "scoring")
    firm = RECIPE["hardware"] | {role: RECIPE["hardware"].get(role, {}) | {"spot": False} for role in roles}
    config = TrainConfig.model_validate(RECIPE | {"hardware": firm})
    often = Assumptions(taken=10.0)
    assert on(8, often, config, draws=10).lost == 0.0 < on(8, often, draws=10).lost


def test_the_seed_says_everything() -> None:
    """If it fails, the plan is another one each time, or always the same draw."""
    first, again, other = (on(16, Assumptions(), draws=8, seed=seed) for seed in (0, 0, 1))
    assert first == again and first.seconds != other.seconds


def test_verdicts_take_time() -> None:
    """If it fails, a domain whose answers run in a sandbox is planned as one whose are compared."""
    slow, quick = (on(16, replace(STILL, verdicts=verdicts)) for verdicts in (10.0, inf))
    assert slow.seconds - quick.seconds == pytest.approx(9.6)
