"""What a run takes on a cluster both ways, against sums by hand."""

import json
from pathlib import Path

import pytest
import yaml

from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.planning.capacity import Assumptions
from tasks.gdsd.planning.plan import LONGEST, Plan, plan, resident_tasks, task_size
from tasks.gdsd.planning.shapes import shape_of
from tasks.gdsd.planning.ways import Way, resident, staged, why_not_resident
from tasks.gdsd.planning.work import DEVICES
from workflows import rounds

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
H100 = DEVICES["h100"]
ASSUMED = Assumptions(pod=20.0, imports=10.0, verdicts=100.0)
PRICES = {"rollout": 2.0, "distill": 3.0, "evaluation": 4.0, "scoring": 1.0}


def recipe(name: str = "llada_gsm8k", **changes: dict[str, object]) -> TrainConfig:
    """A recipe with 20 problems of 16 completions a round, and some of its fields changed."""
    written = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    for section, values in changes.items():
        written[section] = written[section] | values if isinstance(values, dict) else values
    return TrainConfig.model_validate_json(json.dumps(written))


def both(config: TrainConfig) -> tuple[Plan, Way, Way]:
    family, shape = shape_of(config.policy)
    found = plan(config, shape, family)
    return found, staged(config, found, H100, ASSUMED), resident(config, found, H100, ASSUMED)


def test_each_way_costs_what_its_pods_hold() -> None:
    """If it fails, a recipe is run the dearer way, or a bill is not the one that was shown.

    20 problems are 3 or 2 for each of 8 shards, and 5 for each of 4 processes, of which each has two shards. Staged, a
    round has 8 pods for a shard and one with 4 GPUs for the updates, a pod without any for verdicts, and writes its
    checkpoint twice. In memory there are 6 tasks of 25 rounds. 320 verdicts take 3.2 s, for which 4 GPUs wait. Of 4
    processes that load at once, one reads the disk at 1 GB/s, the others what it has read at 10.
    """
    config = recipe(rounds_per_task=25, distill={"compute": {"processes": 4, "precision": "bfloat16"}})
    found, one, other = both(config)
    sampling, updating, loads = found.rollout_seconds(H100), found.distill_seconds(H100), found.loads
    load, written = loads.sampled / 1e9, loads.written / 1e9
    together = loads.trained / 4 * (1 + 3 / 10) / 1e9
    answers = found.evaluation_work.seconds(H100, True)
    evaluated = answers + 64 * (30 + load)

    assert one.work == other.work == pytest.approx((150 * (sampling + updating) + answers) / 3600)
    assert one.starts == pytest.approx((150 * 12 * 30 + 64 * 30) / 3600)
    assert one.loads == pytest.approx((150 * (8 * load + 4 * together) + 64 * load) / 3600)
    assert one.writes == pytest.approx(150 * 4 * 2 * written / 3600) and one.waits == pytest.approx(0)
    in_turn = (30 + load + sampling * 3 / 20) + (30 + 3.2) + (30 + together + updating / 4 + 2 * written)
    at_evaluations = answers / 8 + 8 * (load + 60)
    assert one.clock == pytest.approx((150 * in_turn + at_evaluations) / 3600)

    assert other.starts == pytest.approx((6 * 4 * 30 + 64 * 30) / 3600)
    assert other.loads == pytest.approx((6 * 4 * together + 64 * load) / 3600)
    assert other.writes == pytest.approx(150 * 4 * 3 * written / 3600)
    assert other.waits == pytest.approx(150 * 4 * 3.2 / 3600)
    of_round = (sampling + updating) / 4 + 3.2 + 3 * written
    assert other.clock == pytest.approx((6 * (30 + together) + 150 * of_round + at_evaluations) / 3600)
    assert (one.pods, other.pods, one.held, other.held) == (150 * 9, 6, 4, 4)
    assert one.money is other.money is None

    hardware = {role: config.hardware.model_dump()[role] | {"price": price} for role, price in PRICES.items()}
    priced, one, other = both(config.model_copy(update={"hardware": recipe(hardware=hardware).hardware}))
    assert priced == found
    alike = 4 * evaluated + 1 * 8 * 30
    rollouts, epochs = 8 * (30 + load) + sampling, 4 * (30 + together + 2 * written) + updating
    assert one.money == pytest.approx((alike + 150 * (2 * rollouts + 3 * epochs + 1 * (30 + 3.2))) / 3600)
    assert other.money == pytest.approx((alike + 3 * 4 * (6 * (30 + together) + 150 * of_round)) / 3600)


def test_what_waits_is_counted() -> None:
    """If it fails, 8 GPUs look as good as 4 for 20 problems, of which they have 3 or 2, or drift is for nothing."""
    engine = {"name": "dual_cache", "drift": {"sample": 48}}
    compute = {"processes": 8, "precision": "bfloat16"}
    found, one, other = both(recipe(distill={"compute": compute}, rollout={"engine": engine}))
    sampling, updating, drift = found.rollout_seconds(H100), found.distill_seconds(H100), found.drift_seconds(H100)
    uneven = 8 * 3 / 20 - 1
    assert drift > 0 and one.waits == pytest.approx(150 * uneven * updating / 3600)
    assert other.waits == pytest.approx(150 * (uneven * (sampling + updating) + 7 * drift + 8 * 3.2) / 3600)
    assert one.pods == 150 * 10


def test_processes_on_a_cpu_are_one_device() -> None:
    """If it fails, two processes on the cores of one machine are planned to be twice as fast as one."""
    cpu = H100.__class__("a CPU", 16.0, 1e12, 1e12, is_gpu=False)
    family, shape = shape_of(TrainConfig().policy)
    found = []
    for processes in (1, 2):
        config = TrainConfig.model_validate_json(
            json.dumps({"rollout": {"shards": 2}, "distill": {"compute": {"processes": processes}}})
        )
        planned = plan(config, shape, family, is_gpu=False)
        found.append((staged(config, planned, cpu, ASSUMED).work, resident(config, planned, cpu, ASSUMED).work))
        assert resident(config, planned, cpu, ASSUMED).held == 1
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (recipe(), None),
        (recipe(rounds_per_task=1, distill={"compute": {"nodes": 2}}), "2 machines"),
        (recipe(rounds_per_task=1, distill={"compute": {"processes": 3}}), "8 rollout.shards do not go among 3"),
        (recipe("llada_code"), "bubblewrap"),
        (recipe("llada_code", prompts={"domain": {"name": "code", "isolation": "none"}}, judge={"guards": {}}), None),
        (recipe("llada_code", hardware={"distill": {"kind": "cpu"}}), None),
    ],
)
def test_what_cannot_stay_in_memory_says_why(config: TrainConfig, words: str | None) -> None:
    """If it fails, describe advises what is refused when it is run, or hides that it could be."""
    found = why_not_resident(config)
    assert found is None if words is None else found is not None and words in found


def test_tasks_of_rounds_are_the_workflows() -> None:
    """If it fails, loads and starts are planned for fewer tasks than the workflow makes."""
    assert LONGEST == rounds.LONGEST
    for total in (1, 2, 24, 25, 26, 60, 150):
        for every in (1, 7, 10, 25, 26, 60, 200):
            for size in (2, 10, 25, 30):
                config = TrainConfig(rounds=total, validate_every=every, rounds_per_task=size)
                legs = rounds.cut(total, every)
                made = [block for leg in legs for block in rounds.blocks(leg.rounds.start, leg.rounds.stop, size)]
                assert resident_tasks(config, size) == len(made)
    # Where each stage is a task, as many rounds as there could be in one.
    staged_ones = [TrainConfig(rounds=100, validate_every=every) for every in (1, 10, 60)]
    assert [task_size(each) for each in staged_ones] == [2, 10, 25]


def test_memory_has_what_waits_while_a_policy_samples() -> None:
    """If it fails, rounds in memory run out of it at the first rollout.

    Beside what sampling holds there are the adapter in float32, 335,544,320 numbers, and its two moments. A policy that
    is trained whole has all weights in float32 beside their halves, and its reference; with moments that are spread,
    they wait in the machine's memory.
    """
    compute = {"precision": "bfloat16", "gradient_checkpointing": True, "processes": 2}
    for changes, weights, adapter, moments in (
        ({}, 0, 4 * 335_544_320, 8 * 335_544_320),
        ({"policy": {"adapter": None}}, 4 * 8_015_581_184, 0, 8 * 8_015_581_184),
        ({"distill": {"compute": compute | {"sharding": "fsdp"}}}, 0, 4 * 335_544_320, 0),
    ):
        one, other = (both(recipe(rounds_per_task=size, **changes))[0] for size in (1, 25))
        assert other.distill == one.distill and other.evaluation == one.evaluation
        assert other.rollout.weights - one.rollout.weights == weights
        assert other.rollout.adapter - one.rollout.adapter == adapter
        assert other.rollout.optimizer == moments
        assert other.rollout.reference == (0 if adapter else one.distill.reference)
        assert (one.tasks, other.tasks) == (0, 6)
        assert other.load_hours < one.load_hours and other.hours(H100) < one.hours(H100)


def test_an_adapter_that_is_merged_leaves_a_copy_of_its_maps() -> None:
    """If it fails, a CPU runs out of memory where the policy stays: merged, float32 maps are kept as they were."""
    config = recipe("qwen3_sudoku")
    family, shape = shape_of(config.policy)
    one, other = (
        plan(config.model_copy(update={"rounds_per_task": size}), shape, family, is_gpu=False).rollout
        for size in (1, 25)
    )
    assert config.policy.adapter is not None
    assert other.weights - one.weights == 4 * shape.body
