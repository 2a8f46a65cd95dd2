"""Machines by name: what a cluster is asked for at each stage, asserted in what the dynamic tasks would launch."""

import json
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import pytest
from flyteidl.core.dynamic_job_pb2 import DynamicJobSpec
from flyteidl.core.tasks_pb2 import Resources as ResourcesIdl
from flyteidl.core.workflow_pb2 import Node, TaskNodeOverrides
from flytekit.tools.translator import get_serializable
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile

from tasks.gdsd.config.compare import CompareConfig
from tasks.gdsd.config.evaluate import EvaluateConfig
from tasks.gdsd.config.hardware import MOST_GPUS, Kind
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.errors import ConfigError
from tasks.gdsd.planning.memory import GIB
from tasks.gdsd.planning.plan import plan
from tasks.gdsd.planning.shapes import shape_of
from tests.workflows.conftest import ROOT
from tests.workflows.test_compiled import SETTINGS, leg_inputs, unroll
from tests.workflows.test_recipes import RECIPES, load, written
from workflows import gdsd, rounds

# kind: (cores, GiB of memory), each as request and limit; the accelerator's name
KINDS = {
    "cpu": ((2, 4), (4, 8), ""),
    "gpu": ((4, 8), (16, 32), ""),
    "t4": ((3, 4), (12, 14), "nvidia-tesla-t4"),
    "l4": ((3, 4), (12, 14), "nvidia-l4"),
    "a10g": ((3, 4), (12, 14), "nvidia-a10g"),
    "l40s": ((3, 4), (24, 28), "nvidia-l40s"),
    "v100": ((6, 8), (48, 56), "nvidia-tesla-v100"),
    "a100": ((8, 12), (64, 72), "nvidia-tesla-a100"),
    "a100-80gb": ((8, 12), (128, 144), "nvidia-a100-80gb"),
    "h100": ((12, 16), (160, 192), "nvidia-h100"),
    "h200": ((12, 16), (192, 224), "nvidia-h200"),
}
MODEL = {"hub": "GSAI-ML/LLaDA-8B-Instruct", "revision": "0" * 40}
GPU_GIB = {"l4": 22.0, "h100": 79.1}  # what torch reports, of the recipes' cards


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stands for a policy and a table: compiling reads neither."""
    found = tmp_path_factory.mktemp("inputs")
    (found / "table").write_text("")
    return found


def launched(config: TrainConfig, folder: Path) -> dict[str, tuple[TaskNodeOverrides, bool]]:
    """What all tasks of a run would be asked for, and whether they may be interrupted, by the task's name."""
    specs = [
        unroll(
            gdsd.prepare,
            {
                "prompts": config.prompts,
                "policy": config.policy,
                "hardware": config.hardware,
                "rollout": config.rollout,
                "evaluation": config.evaluation,
                "judge": config.judge,
                "publish": config.publish,
            },
        ),
        unroll(rounds.run_leg, leg_inputs(config, folder, end=1)),
    ]
    return {name: asked for spec in specs for name, asked in by_task(spec.nodes).items()}


def by_task(nodes: list[Node]) -> dict[str, tuple[TaskNodeOverrides, bool]]:
    found = {}
    for node in nodes:
        inner = node.array_node.node if node.HasField("array_node") else node
        name = inner.metadata.name.removesuffix("-arraynode").rsplit(".", 1)[-1]
        if name.startswith("map_"):
            name = name.removeprefix("map_").rsplit("_", 1)[0]
        found[name] = (inner.task_node.overrides, inner.metadata.interruptible)
    return found


def amounts(asked: TaskNodeOverrides) -> dict[int, tuple[str, str]]:
    limits = {entry.name: entry.value for entry in asked.resources.limits}
    return {entry.name: (entry.value, limits.pop(entry.name)) for entry in asked.resources.requests} | limits


def configured(**changes: object) -> TrainConfig:
    return TrainConfig.model_validate_json(json.dumps(changes))


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_asks_for_its_machine(kind: str, folder: Path) -> None:
    """If it fails, a named GPU is another one on the cluster, has no main memory, or stays beyond several processes."""
    stages = {"policy": "prepare_policy", "rollout": "generate_rollouts"}
    stages |= {"distill": "distill_epoch", "evaluation": "answer_problems"}
    config = configured(
        hardware={stage: {"kind": kind} for stage in stages}, distill={"compute": {"processes": 2}}, rounds=1
    )
    cores, gib, accelerator = KINDS[kind]
    tasks = launched(config, folder)
    for stage, task in stages.items():
        asked, spot = tasks[task]
        processes = 2 if stage == "distill" else 1
        expected = {
            ResourcesIdl.CPU: tuple(str(processes * number) for number in cores),
            ResourcesIdl.MEMORY: tuple(f"{processes * number}Gi" for number in gib),
        }
        if kind != "cpu":
            expected[ResourcesIdl.GPU] = (str(processes),) * 2
        assert amounts(asked) == expected, stage
        assert asked.extended_resources.gpu_accelerator.device == accelerator
        assert asked.extended_resources.shared_memory.mount_path == ("/dev/shm" if stage == "distill" else "")
        assert asked.container_image == ("gdsd:cpu" if kind == "cpu" else "gdsd:gpu")
        assert spot is True


def test_all_kinds_are_covered() -> None:
    """If it fails, a kind can be configured of which nobody has seen what it asks for."""
    assert set(KINDS) == set(get_args(Kind)) == {"cpu", *MOST_GPUS}


STAGES = {
    "prompts": {"prepare_prompts", "prepare_guard"},
    "policy": {"prepare_policy"},
    "rollout": {"generate_rollouts"},
    "scoring": {"check_rewards", "reward_rollouts", "verify_answers"},
    "distill": {"distill_epoch"},
    "evaluation": {"answer_problems"},
}


def test_each_stage_has_a_machine_of_its_own(folder: Path) -> None:
    """If it fails, cores, memory or spot of a stage are without effect, or take effect at another one."""
    places = {
        stage: {"cpu": 20 + number, "memory": f"{40 + number}Gi", "spot": number % 2 == 0}
        for number, stage in enumerate(STAGES)
    }
    tasks = launched(configured(hardware=places, judge={"guards": {"other": {"test_size": 4}}}), folder)
    for stage, place in places.items():
        for task in STAGES[stage]:
            asked, spot = tasks.pop(task)
            cores, memory = str(place["cpu"]), place["memory"]
            assert amounts(asked) == {ResourcesIdl.CPU: (cores, cores), ResourcesIdl.MEMORY: (memory, memory)}
            assert spot is place["spot"], task
    assert set(tasks) == {"report_progress"}


def test_a_check_judges_where_a_run_would(folder: Path) -> None:
    """If it fails, `check` says of a reward that runs answers, or that needs memory, what holds on another machine."""
    config = configured(hardware={"prompts": {"cpu": 21}, "scoring": {"cpu": 22}}, judge={"guards": {"other": {}}})
    tasks = by_task(unroll(gdsd.check_domains, {"config": config}).nodes)
    cores = {task: amounts(asked)[ResourcesIdl.CPU][0] for task, (asked, _) in tasks.items()}
    prompts, scoring = ("prepare_prompts", "prepare_guard"), ("measure_problems", "show_verdicts")
    assert cores == dict.fromkeys(prompts, "21") | dict.fromkeys(scoring, "22")


def test_an_evaluation_has_machines_of_its_own(folder: Path) -> None:
    """If it fails, a published policy is evaluated on a machine that cannot hold it."""
    hardware = {"prompts": {"cpu": 21}, "scoring": {"cpu": 22}, "evaluation": {"kind": "l4", "spot": False}}
    config = EvaluateConfig.model_validate_json(json.dumps({"hardware": hardware, "lengths": [16, 32]}))
    tasks = by_task(unroll(gdsd.evaluate_lengths, {"policy": FlyteDirectory(str(folder)), "config": config}).nodes)
    answers, spot = tasks["answer_problems"]
    assert answers.extended_resources.gpu_accelerator.device == "nvidia-l4" and not spot
    assert amounts(tasks["prepare_test"][0])[ResourcesIdl.CPU] == ("21", "21")
    assert amounts(tasks["verify_answers"][0])[ResourcesIdl.CPU] == ("22", "22")


@pytest.mark.parametrize("name", ["train", "compare"])
def test_a_workflow_hands_its_hardware_to_whatever_unrolls(name: str) -> None:
    """If it fails, a part of a run is placed by the defaults, whatever the configuration names."""
    compiled = get_serializable(OrderedDict(), SETTINGS, getattr(gdsd, name)).to_flyte_idl().template
    placed = set()
    for node in compiled.nodes:
        bindings = {binding.var: binding.binding for binding in node.inputs}
        if "hardware" in bindings:
            (attribute,) = bindings["hardware"].promise.attr_path
            assert attribute.string_value == "hardware"
            placed.add(node.metadata.name)
        elif "config" in bindings and not bindings["config"].promise.attr_path:  # the whole of it
            placed.add(node.metadata.name)
    whole = {"run_rounds", "check_guards", "report_run"} if name == "train" else {"run_contest", "report_comparison"}
    assert placed == {"prepare", "evaluate_policy"} | whole


def test_a_comparison_hands_its_hardware_to_its_runs(folder: Path) -> None:
    """If it fails, the runs of a comparison are placed by the defaults, whatever the configuration names."""
    policy, table = FlyteDirectory(str(folder)), FlyteFile(str(folder / "table"))
    tables = {"train": table, "validation": table, "test": table, "base": policy}
    changes = {"hardware": {"rollout": {"kind": "h200"}}, "contestants": {"gdsd": {}}, "seeds": [0, 1], "tuning": None}
    config = CompareConfig.model_validate_json(json.dumps(changes))
    given = handed(unroll(gdsd.run_contest, tables | {"config": config}), "run_rounds", "config")
    assert len(given) == 2 and all(b"h200" in value for value in given)


def test_guards_are_asked_on_the_machines_of_their_run(folder: Path) -> None:
    """If it fails, a published policy answers the problems of a guard on a machine that cannot hold it."""
    policy, table = FlyteDirectory(str(folder)), FlyteFile(str(folder / "table"))
    config = configured(hardware={"evaluation": {"kind": "h200"}}, judge={"guards": {"one": {}, "other": {}}})
    guards = {"base": policy, "trained": policy, "guards": [table, table], "config": config}
    given = handed(unroll(gdsd.check_guards, guards), "evaluate_policy", "hardware")
    assert len(given) == 4 and all(b"h200" in value for value in given)


def handed(spec: DynamicJobSpec, task: str, name: str) -> list[bytes]:
    """What a dynamic task gives to others as one of their inputs, packed."""
    return [
        binding.binding.scalar.binary.value
        for node in spec.nodes
        for binding in node.inputs
        if node.metadata.name == task and binding.var == name
    ]


def kinds(config: TrainConfig | CompareConfig) -> Mapping[str, str]:
    hardware = config.hardware
    return {stage: getattr(hardware, stage).kind for stage in ("policy", "rollout", "distill", "evaluation")}


@pytest.mark.parametrize("model", [TrainConfig, CompareConfig])
def test_a_published_model_computes_on_a_gpu_unless_told(model: type[TrainConfig] | type[CompareConfig]) -> None:
    """If it fails, a model of 16 GB is sent to two cores, or the tiny one waits for a GPU that it does not need."""
    prompts = {"domain": {"name": "sudoku", "format": "tagged"}}
    assert set(kinds(model()).values()) == {"cpu"}
    written = {"prompts": prompts, "policy": {"model": MODEL}, "hardware": {"rollout": {"kind": "a10g"}}}
    config = model.model_validate_json(json.dumps(written | {"hardware": {"rollout": {"kind": "a10g"}}}))
    assert kinds(config) == {"policy": "gpu", "rollout": "a10g", "distill": "gpu", "evaluation": "gpu"}
    assert model.model_validate_json(config.model_dump_json()) == config
    assert kinds(model(prompts=config.prompts, policy=config.policy))["distill"] == "gpu"
    on_cpu = model.model_validate_json(json.dumps(written | {"hardware": {"distill": {"kind": "cpu"}}}))
    assert kinds(on_cpu)["distill"] == "cpu"


@pytest.mark.parametrize(
    ("hardware", "words"),
    [
        ({"distill": {"kind": "h1000"}}, ["hardware.distill.kind", "h1000", "'h100'"]),
        ({"distill": "h100"}, ["hardware.distill", "h100"]),
        ({"prompts": {"kind": "h100"}}, ["hardware.prompts.kind", "unknown key"]),
        ({"rollout": {"memory": "64GB"}}, ["hardware.rollout.memory", "64GB"]),
        ({"rollout": {"cpu": 0}}, ["hardware.rollout.cpu", ">= 1"]),
        ({"gate": {}}, ["hardware.gate", "unknown key"]),
        ({"distill": {"kind": "h100"}}, ["distill.compute.processes 12", "8 GPUs", "'h100'", "lower one"]),
        ([], ["hardware"]),
    ],
)
def test_impossible_hardware_is_refused(hardware: object, words: list[str]) -> None:
    """If it fails, a person learns of it from a pod that never starts."""
    for policy in ({}, {"policy": {"model": MODEL}, "prompts": {"domain": {"name": "sudoku", "format": "tagged"}}}):
        with pytest.raises(ConfigError) as refused:
            configured(hardware=hardware, distill={"compute": {"processes": 12}}, **policy)
        assert all(word in str(refused.value) for word in words), refused.value


def test_a_comparison_names_the_contestant_with_too_many_processes() -> None:
    """If it fails, a comparison waits for a machine that nobody has."""
    contestants = {"wide": {"objective": {"name": "gdsd"}, "compute": {"processes": 9}}}
    with pytest.raises(ConfigError, match=r"contestants\.wide\.compute\.processes 9"):
        CompareConfig.model_validate_json(
            json.dumps({"contestants": contestants, "hardware": {"distill": {"kind": "l4"}}})
        )


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_fits_the_machines_that_it_names(recipe: Path) -> None:
    """If it fails, a recipe as shipped runs out of memory on the GPU that it asks for."""
    config = load(written(recipe))
    family, shape = shape_of(config.policy)
    found = plan(config, shape, family)
    named = kinds(config)
    libraries = 1  # GiB, beside what is planned
    assert found.peak / GIB + libraries < min(GPU_GIB[kind] for kind in named.values())


def test_the_shipped_tiny_experiments_need_no_gpu() -> None:
    """If it fails, the first run on a cluster without a GPU never starts."""
    for name in ("smoke", "tiny_sudoku", "tiny_countdown"):
        assert set(kinds(load(written(ROOT / f"configs/{name}.yaml"))).values()) == {"cpu"}
