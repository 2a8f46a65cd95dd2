"""What a cluster is given: the compiled tasks, asserted field by field."""

from collections import OrderedDict
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from flyteidl.core.dynamic_job_pb2 import DynamicJobSpec
from flyteidl.core.tasks_pb2 import Resources as ResourcesIdl
from flytekit import FlyteContextManager, PythonFunctionTask
from flytekit.configuration import Image, ImageConfig, SerializationSettings
from flytekit.core.context_manager import ExecutionState
from flytekit.core.type_engine import TypeEngine
from flytekit.core.workflow import WorkflowBase
from flytekit.tools.translator import get_serializable
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile

from tasks.gdsd.config.evaluate import EvaluationConfig, GateConfig, GuardConfig
from tasks.gdsd.config.hardware import TrainHardwareConfig
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.domains import DomainChoice
from tasks.gdsd.domains.sudoku import SudokuConfig
from tasks.gdsd.records import Progress
from workflows import gdsd, retrain, rounds

SETTINGS = SerializationSettings(
    image_config=ImageConfig(Image("default", "unused", "tag")), project="p", domain="d", version="v"
)
CPU = {ResourcesIdl.CPU: ("2", "4"), ResourcesIdl.MEMORY: ("4Gi", "8Gi")}
GPU = {ResourcesIdl.CPU: ("4", "8"), ResourcesIdl.MEMORY: ("16Gi", "32Gi"), ResourcesIdl.GPU: ("1", "1")}


class Expected(NamedTuple):
    """What a task is compiled to; the defaults are those of most tasks on a CPU."""

    inputs: str
    outputs: str = "o0"
    gpu: bool = False
    hours: float = 1
    retries: int | None = None  # 3 on a GPU, whose machine may be taken away, and else 2
    cached: bool = True


TASKS = {
    "prepare_prompts": Expected("config prompts_per_round", "stats test train validation"),
    "check_rewards": Expected("problems sections", hours=2),
    "show_verdicts": Expected("problems sections", hours=2, cached=False),
    "measure_problems": Expected("config problems rooms", "", cached=False),
    "prepare_policy": Expected(
        "config guards rooms test train validation",
        "checkpoint guards stats test train validation",
        gpu=True,
        hours=2,
        retries=2,
    ),
    "generate_rollouts": Expected(
        "batch_size engine group_size policy prompts_per_round round sampler seed shard shards train", gpu=True, hours=6
    ),
    "sample_both": Expected("batch_size engine policy sampler seed size train", gpu=True, hours=2),
    "measure_drift": Expected("domain engine limits round rule samples", "engine stats", hours=2, retries=3),
    "reward_rollouts": Expected("config domain group_size rule shards", "stats table", hours=2, retries=3),
    "distill_epoch": Expected(
        "base config group_size policy rewarded round seed", "checkpoint stats", gpu=True, hours=6
    ),
    "distill_epoch_on_nodes": Expected(
        "base config group_size policy rewarded round seed", "checkpoint stats", gpu=True, hours=6
    ),
    "train_rounds": Expected(
        "base before config domain end engine first name policy rounds train",
        "checkpoint completions drifts engine epochs rewards",
        gpu=True,
        hours=72,
    ),
    "prepare_test": Expected("config"),
    "prepare_guard": Expected("config name prompts train"),
    "answer_problems": Expected("config policy problems room seed shard shards", gpu=True, hours=4),
    "verify_answers": Expected("config domain rule seed shards", "report samples", hours=4),
    "select_best": Expected("before last progress validation"),
    "report_progress": Expected("before drifts epochs name rewards rounds validations", retries=3),
    "announce_round": Expected("epoch reward rounds", hours=0.5, retries=3),
    "gate": Expected("base base_samples config guards trained trained_samples", hours=0.5, cached=False),
    "gate_guard": Expected("base base_samples config name trained trained_samples", hours=0.5, cached=False),
    "report_run": Expected(
        "base_report base_samples began_unix_seconds best check config decision policy progress prompts "
        "trained_report trained_samples validation",
        cached=False,
    ),
    "record_series": Expected("contestant distill progress seed validation"),
    "choose_learning_rate": Expected("contestant distill series", "distill tuning"),
    "report_comparison": Expected("base config series tunings", cached=False),
    "report_evaluations": Expected("reports samples", hours=0.5, cached=False),
}


@pytest.mark.parametrize("name", TASKS)
def test_task_compiles_to_what_is_documented(name: str) -> None:
    """A cluster would otherwise run a stage on the wrong machine, never retry it, or serve a stale result."""
    expected = TASKS[name]
    template = get_serializable(OrderedDict(), SETTINGS, ENTITIES[name]).to_flyte_idl().template
    container, metadata = template.container, template.metadata
    resources = GPU if expected.gpu else CPU
    assert container.image == ("gdsd:gpu" if expected.gpu else "gdsd:cpu")
    for which, amounts in enumerate((container.resources.requests, container.resources.limits)):
        assert {entry.name: entry.value for entry in amounts} == {
            kind: bounds[which] for kind, bounds in resources.items()
        }
    assert metadata.retries.retries == (expected.retries or (3 if expected.gpu else 2))
    assert metadata.timeout.ToTimedelta() == timedelta(hours=expected.hours)
    assert metadata.interruptible is True
    assert metadata.discoverable is metadata.cache_serializable is expected.cached
    assert len(metadata.discovery_version) == (64 if expected.cached else 0)
    assert sorted(template.interface.inputs.variables) == sorted(expected.inputs.split())
    # How a reward service is asked is part of a domain. The cache knows its rule: by itself, or in a configuration.
    inputs, ignored = template.interface.inputs.variables, metadata.cache_ignore_input_vars
    assert ("domain" in inputs) is ("domain" in ignored)
    assert "domain" not in inputs or "rule" in inputs or name == "train_rounds"
    assert sorted(template.interface.outputs.variables) == expected.outputs.split()


def test_every_task_of_the_workflow_is_in_the_table() -> None:
    """A new stage without stated resources, retries and cache decision would go unnoticed."""
    assert set(ENTITIES) == {*TASKS, *DYNAMIC}


ENTITIES = {
    name: value
    for module in (gdsd, rounds)
    for name, value in vars(module).items()
    if isinstance(value, PythonFunctionTask)
}
DYNAMIC = (
    "prepare",
    "check_domains",
    "evaluate_policy",
    "evaluate_lengths",
    "check_guards",
    "run_rounds",
    "run_legs",
    "run_leg",
    "run_contest",
    "publish_run",  # what it launches is in tests/workflows/test_publish.py
)


@pytest.mark.parametrize("name", DYNAMIC)
def test_what_unrolls_is_a_dynamic_task_on_cpu(name: str) -> None:
    """The tasks that unroll rounds, runs and evaluations compute nothing; they must not hold a GPU meanwhile."""
    template = get_serializable(OrderedDict(), SETTINGS, ENTITIES[name]).to_flyte_idl().template
    assert template.container.image == "gdsd:cpu"
    assert {entry.name for entry in template.container.resources.requests} == set(CPU)
    assert not template.metadata.discoverable and not template.metadata.interruptible
    assert template.metadata.retries.retries == 2
    assert template.metadata.timeout.ToTimedelta() == timedelta(days=30)


@pytest.mark.parametrize("name", DYNAMIC)
def test_what_unrolls_knows_the_images_of_its_registration(name: str) -> None:
    """A dynamic task names the images of its tasks in its own pod; it would name those of no registry there."""
    template = get_serializable(OrderedDict(), SETTINGS, ENTITIES[name]).to_flyte_idl().template
    environment = {pair.key: pair.value for pair in template.container.env}
    assert environment.items() >= {"GDSD_CPU_IMAGE": "gdsd:cpu", "GDSD_GPU_IMAGE": "gdsd:gpu"}.items()
    # Trackers are told at the end, and by each leg, which others launch.
    assert ("GDSD_SECRETS" in environment) is (name in {"publish_run", "run_rounds", "run_legs", "run_leg"})


def unroll(task: PythonFunctionTask, inputs: Mapping[str, object]) -> DynamicJobSpec:
    """Returns what a dynamic task would launch on a cluster."""
    task._wf = None  # flytekit keeps what it unrolled first, in a pod the only time
    context = FlyteContextManager.current_context()
    assert context.execution_state is not None
    inside = context.execution_state.with_params(mode=ExecutionState.Mode.TASK_EXECUTION)
    builder = context.with_serialization_settings(SETTINGS).with_execution_state(inside)
    with FlyteContextManager.with_context(builder) as context:
        literals = TypeEngine.dict_to_literal_map(context, dict(inputs), dict(task.python_interface.inputs))
        return task.dispatch_execute(context, literals).to_flyte_idl()


def not_after(spec: DynamicJobSpec, task: str) -> set[str]:
    """The tasks that wait for one neither themselves nor by what they wait for, by their names."""
    names = {node.id: node.metadata.name.rsplit(".", 1)[-1] for node in spec.nodes}
    after = {node for node, name in names.items() if name == task}
    while more := {node.id for node in spec.nodes if not after.isdisjoint(node.upstream_node_ids)} - after:
        after |= more
    return {name for node, name in names.items() if node not in after}


def leg_inputs(
    config: TrainConfig, folder: Path, recorded: Progress | None = None, **changes: object
) -> dict[str, object]:
    """Inputs of a first leg of two rounds, of which only what was recorded before is there to be read."""
    (folder / "table").write_text("")
    progress = []
    if recorded is not None:
        recorded.write(folder / "progress")
        progress.append(FlyteFile(str(folder / "progress")))
    policy, table = FlyteDirectory(str(folder)), FlyteFile(str(folder / "table"))
    state = {"policy": policy, "best": policy, "progress": progress, "validation": []}
    state["engine"] = config.rollout.engine.without_limits()
    run = {"train": table, "problems": table, "base": policy, "began": 0.0, "asked": "validation"}
    return {"first": 0, "end": 2, "evaluated": True, "config": config} | state | run | changes


def test_no_policy_is_made_before_the_rewards_were_checked() -> None:
    """If it fails, a reward that nobody could train on costs a GPU for a warm start."""
    config = TrainConfig(judge=GateConfig(guards={"other": GuardConfig(test_size=4)}))
    names = ("prompts", "policy", "hardware", "rollout", "evaluation", "judge", "publish")
    compiled = unroll(gdsd.prepare, {name: getattr(config, name) for name in names})
    assert not_after(compiled, "check_rewards") == {"prepare_prompts", "prepare_guard"}


def test_an_evaluation_maps_over_its_shards(tmp_path: Path) -> None:
    """A cluster answers shards side by side, and needs one node for them however many there are."""
    for name in ("policy", "problems"):
        (tmp_path / name).write_text(name)
    inputs = {
        "policy": FlyteDirectory(str(tmp_path)),
        "problems": FlyteFile(str(tmp_path / "problems")),
        "domain": DomainChoice(SudokuConfig()),
        "config": EvaluationConfig(shards=300),
        "seed": 0,
        "hardware": TrainHardwareConfig(),
        "asked": "test",
    }
    compiled = unroll(gdsd.evaluate_policy, inputs)
    (mapped,) = [node for node in compiled.nodes if node.HasField("array_node")]
    assert len(compiled.nodes) == 2 and "answer_problems" in mapped.array_node.node.metadata.name
    (shards,) = [binding for binding in mapped.inputs if binding.var == "shard"]
    values = [item.scalar.primitive.integer for item in shards.binding.collection.bindings]
    assert values == list(range(300))


def test_images_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A team's registry and tag come from its environment, not from an edit of the sources."""
    import importlib

    import images

    monkeypatch.setenv("GDSD_GPU_IMAGE", "example/gdsd-gpu:7")
    try:
        assert importlib.reload(images).GPU.image == "example/gdsd-gpu:7"
    finally:
        monkeypatch.undo()
        importlib.reload(images)


@pytest.mark.parametrize(
    "entity",
    [gdsd.train, gdsd.evaluate, gdsd.compare, retrain.retrain, retrain.evaluate_champion],
    ids=lambda entity: entity.name,
)
def test_a_failure_is_recorded_with_the_inputs(entity: WorkflowBase) -> None:
    """If it fails, a run that failed on a cluster leaves nothing behind but the logs of its pods."""
    template = get_serializable(OrderedDict(), SETTINGS, entity).to_flyte_idl().template
    node, name = template.failure_node, entity.name.rpartition(".")[2]
    assert node.task_node.reference_id.name == f"tasks.failure.record_{name}_failure"
    given = {binding.var for binding in node.inputs if binding.binding.HasField("promise")}
    assert given == set(template.interface.inputs.variables), "and `err`, which Flyte adds"
    task = get_serializable(OrderedDict(), SETTINGS, entity.on_failure).to_flyte_idl().template
    assert set(task.interface.inputs.variables) == given | {"err"} and not task.interface.outputs.variables
    assert task.container.image == "gdsd:cpu"
    assert {entry.name for entry in task.container.resources.requests} == set(CPU)
    assert task.metadata.retries.retries == 2 and not task.metadata.discoverable
