"""A run in legs: where they are cut, what a cluster is given of them, and how a run stops early."""

import json
import logging
import os
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
from flyteidl.core.dynamic_job_pb2 import DynamicJobSpec
from flyteidl.core.workflow_pb2 import Node
from flytekit import PythonFunctionTask
from flytekit.core.workflow import WorkflowBase
from flytekit.models.task import TaskSpec
from flytekit.tools.translator import get_serializable
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile

from tasks.flyte.pace import Pace
from tasks.gdsd.config.compare import CompareConfig
from tasks.gdsd.config.evaluate import EvaluateConfig
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.errors import ConfigError
from tasks.gdsd.records import Progress
from tasks.gdsd.run.run_record import RunRecord
from tasks.gdsd.strict import Config
from tests.gdsd.series import epoch, reward, validation
from tests.workflows.conftest import without_times
from tests.workflows.test_compiled import SETTINGS, leg_inputs, unroll
from workflows import gdsd, retrain, rounds

MICRO: dict[str, object] = {
    "name": "micro",
    "rounds": 4,
    "validate_every": 1,
    "prompts": {"train_size": 24, "validation_size": 8, "test_size": 8},
    "policy": {
        "tiny": {"hidden_size": 16, "intermediate_size": 16, "layers": 1, "heads": 2},
        "warm_start": {"steps": 3, "batch_size": 8},
    },
    "rollout": {"prompts_per_round": 4, "group_size": 4, "sampler": {"steps_per_block": 4}},
    "evaluation": {"sampler": {"steps_per_block": 4}},
    "distill": {"learning_rate": 1e-12},  # moves nothing, so no validation is better than the first
}


def configure(**changes: object) -> TrainConfig:
    return TrainConfig.model_validate_json(json.dumps(MICRO | changes))


def test_a_leg_ends_with_an_evaluation_or_is_long_enough() -> None:
    """If it fails, rounds are left out or done twice, evaluated at other places, or more than a cluster can unroll."""
    assert list(rounds.cut(5, 2)) == [(range(2), True), (range(2, 4), True), (range(4, 5), True)]
    assert list(rounds.cut(1, 10)) == [(range(1), True)]
    for total, every in ((150, 10), (150, 1), (70, 60), (1000, 1000), (26, 25), (51, 50)):
        legs = list(rounds.cut(total, every))
        assert [number for leg, _ in legs for number in leg] == list(range(total))
        assert max(len(leg) for leg, _ in legs) <= rounds.LONGEST
        wanted = {number for number in range(1, total + 1) if number % every == 0 or number == total}
        assert {leg.stop for leg, evaluated in legs if evaluated} == wanted


def chain(config: TrainConfig, folder: Path, task: PythonFunctionTask, **inputs: object) -> DynamicJobSpec:
    """What a dynamic task of a run's rounds would launch."""
    given = leg_inputs(config, folder, **inputs) | {"distill": config.distill}
    return unroll(task, {name: value for name, value in given.items() if name in task.python_interface.inputs})


def span(node: Node) -> dict[str, int]:
    """The first round of a leg or of a bundle of them, and the one behind its last."""
    values = {binding.var: binding.binding.scalar.primitive.integer for binding in node.inputs}
    return {name: values[name] for name in ("first", "end")}


def test_few_legs_are_a_chain(tmp_path: Path) -> None:
    """If it fails, a cluster keeps hundreds of nodes of one workflow, or the default run costs pods for a nesting."""
    default = TrainConfig()
    nodes = chain(default, tmp_path, rounds.run_rounds).nodes
    assert [node.metadata.name for node in nodes] == ["run_leg"] * 15
    leg = unroll(rounds.run_leg, leg_inputs(default, tmp_path, end=10))
    assert len(leg.nodes) == 10 * 4 + 2


def test_rounds_of_one_task_are_a_node(tmp_path: Path) -> None:
    """If it fails, a cluster starts pods for stages that were to stay in one."""
    config = configure(rounds=25, validate_every=25, rounds_per_task=10)
    leg = unroll(rounds.run_leg, leg_inputs(config, tmp_path, end=25))
    names = [node.metadata.name.rpartition(".")[2] for node in leg.nodes]
    assert names[:-2] == ["train_rounds", "report_progress"] * 3 and "answer_problems" in names[-2]
    (block,) = {span(node)["end"] - span(node)["first"] for node in leg.nodes[:3:2]}
    assert block == 10 and span(leg.nodes[4]) == {"first": 20, "end": 25}


@pytest.mark.parametrize(("total", "every"), [(5, 1), (23, 1), (80, 30)])
def test_many_legs_are_a_tree_that_has_each_of_them_once(
    total: int, every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, a long run leaves rounds out, does them twice, or is one wide chain after all."""
    monkeypatch.setattr(rounds, "WIDEST", 2)
    config = configure(rounds=total, validate_every=every)

    def legs(task: PythonFunctionTask, **span_of_task: int) -> list[dict[str, int]]:
        found = []
        nodes = chain(config, tmp_path, task, **span_of_task).nodes
        assert len(nodes) <= 2
        for node in nodes:
            found += legs(rounds.run_legs, **span(node)) if node.metadata.name == "run_legs" else [span(node)]
        return found

    wanted = [{"first": leg.rounds.start, "end": leg.rounds.stop} for leg in rounds.cut(total, every)]
    assert legs(rounds.run_rounds) == wanted


# As many nodes a round as there are, and the longest lists of shards.
MOST: dict[str, object] = {
    "validate_every": 1,
    "rollout": {"prompts_per_round": 512, "shards": 512, "engine": {"name": "dual_cache", "drift": {}}},
    "evaluation": {"shards": 512},
}


@pytest.mark.parametrize(
    ("total", "task", "inputs"),
    [
        (1_000, rounds.run_rounds, {}),
        (10_000, rounds.run_rounds, {}),
        (1_000, rounds.run_legs, {"first": 900, "end": 1_000}),
        (100_000, rounds.run_legs, {"first": 0, "end": 10_000}),
        (1_000, rounds.run_leg, {"first": 999, "end": 1_000}),
        (1_000, rounds.run_leg, {"first": 975, "end": 1_000}),  # as long as a leg with fewer validations can be
    ],
)
def test_no_closure_exceeds_a_megabyte(
    total: int, task: PythonFunctionTask, inputs: dict[str, int], tmp_path: Path
) -> None:
    """If it fails, a cluster refuses a long run: in its middle, when a dynamic task has said what comes next."""
    config = TrainConfig.model_validate_json(json.dumps(MOST | {"rounds": total}))
    done = range(1, 1 + inputs.get("first", 0))
    recorded = Progress(
        rewards=[reward() for _ in done],
        epochs=[epoch(number) for number in done],
        validations=[validation(number, 0.5) for number in done],
    )
    compiled = chain(config, tmp_path, task, recorded=recorded if done else None, **inputs)
    assert compiled.nodes and compiled.ByteSize() < 1_000_000


# As many of each as a configuration may have.
GUARDS = {"judge": {"guards": {f"guard-{number:026}": {} for number in range(64)}}}
LENGTHS = {
    "lengths": [*range(1, 33)],
    "evaluation": {"shards": 512, "sampler": {"block_length": 1, "steps_per_block": 1}},
}
SEEDS = {"seeds": [*range(30)]}


@pytest.mark.parametrize(
    ("task", "model", "written"),
    [
        (rounds.run_rounds, TrainConfig, MOST | GUARDS | {"rounds": 100}),
        (gdsd.prepare, TrainConfig, MOST | GUARDS),
        (gdsd.check_guards, TrainConfig, MOST | GUARDS),
        (gdsd.evaluate_lengths, EvaluateConfig, LENGTHS),
        (gdsd.run_contest, CompareConfig, SEEDS),
    ],
)
def test_no_list_of_a_configuration_makes_a_closure_of_a_megabyte(
    task: PythonFunctionTask, model: type[Config], written: dict[str, object], tmp_path: Path
) -> None:
    """If it fails, a cluster refuses a run with many guards, an evaluation of many lengths or a comparison of many."""
    config = model.model_validate_json(json.dumps(written))
    (tmp_path / "table").write_text("")
    policy, table = FlyteDirectory(str(tmp_path)), FlyteFile(str(tmp_path / "table"))
    given = dict.fromkeys(("base", "trained", "policy"), policy) | dict.fromkeys(("train", "validation", "test"), table)
    given |= {"asked": "validation", "problems": table, "guards": [table] * 64, "config": config} | vars(
        config
    )  # whose parts `prepare` takes
    compiled = unroll(task, {name: given[name] for name in task.python_interface.inputs})
    assert compiled.nodes and compiled.ByteSize() < 1_000_000


@pytest.mark.parametrize("workflow", [gdsd.train, gdsd.compare, retrain.retrain], ids=lambda entity: entity.name)
def test_no_workflow_exceeds_a_megabyte(workflow: WorkflowBase) -> None:
    """If it fails, a cluster refuses a whole workflow, of which the types of its tasks' values take the most."""
    found = OrderedDict[object, object]()
    compiled = get_serializable(found, SETTINGS, workflow).to_flyte_idl()
    tasks = [entity.to_flyte_idl() for entity in found.values() if isinstance(entity, TaskSpec)]
    assert compiled.ByteSize() + sum(task.ByteSize() for task in tasks) < 1_000_000


def test_progress_is_reported_beside_the_rounds(tmp_path: Path) -> None:
    """If it fails, a page that is drawn holds up the next round, or an evaluation waits for it."""
    nodes = unroll(rounds.run_leg, leg_inputs(TrainConfig(), tmp_path, end=3)).nodes
    reports = {node.id for node in nodes if node.metadata.name.endswith("report_progress")}
    assert len(reports) == 3
    waiting = {node.id for node in nodes if reports & {*node.upstream_node_ids}}
    assert waiting < reports  # only the next report waits for one


@pytest.mark.parametrize("task", [rounds.run_leg, rounds.run_legs], ids=lambda task: task.name)
def test_a_leg_of_a_stopped_run_launches_nothing(task: PythonFunctionTask, tmp_path: Path) -> None:
    """If it fails, patience costs pods and GPUs for rounds that nobody wants."""
    before, last = validation(10, 0.5), [validation(20, 0.4)]
    state = {"recorded": Progress(validations=[before]), "validation": last}

    def nodes(patience: int) -> int:
        found = chain(configure(rounds=150, patience=patience), tmp_path, task, **state)
        return len(found.nodes) if isinstance(found, DynamicJobSpec) else 0

    assert nodes(1) == 0 < nodes(2)


Train = Callable[[TrainConfig], tuple[RunRecord, str]]


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Runs the workflow in this process with a cache of the module's own, without the data checks."""
    from flytekit.core import local_cache

    from tasks import progress
    from tasks.gdsd.prompts import expectations

    home = tmp_path_factory.mktemp("home")
    patch = pytest.MonkeyPatch()
    patch.setenv("GDSD_HOME", str(home / "data"))
    patch.setattr(local_cache, "CACHE_LOCATION", str(home / "cache"))
    patch.setattr(local_cache.LocalTaskCache, "_initialized", False)
    patch.setattr(expectations, "validate", lambda *arguments: [])
    patch.setattr(progress, "_pace", Pace(progress.SHARE))  # that of a process which has drawn nothing yet

    def go(config: TrainConfig) -> tuple[RunRecord, str]:
        result = gdsd.train(config=config)
        return result.record, str(result)

    yield go
    patch.undo()


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[int]]:
    """Says which rounds were computed rather than read from the cache."""
    project = logging.getLogger("tasks")
    project.addHandler(caplog.handler)
    yield lambda: [int(found[1]) for line in caplog.messages if (found := re.match(r"round (\d+) of", line))]
    project.removeHandler(caplog.handler)


def test_a_run_without_improvement_stops_and_says_why(train: Train, said: Callable[[], list[int]]) -> None:
    """If it fails, a run goes on that its validations have given up, or nobody learns why it ended."""
    record, text = train(configure(patience=1))
    assert said() == [1, 2] and [report.round for report in record.validations] == [1, 2]
    assert "stopped   after 2 of 4 rounds: no validation was better than that of round 1 (patience 1)" in text
    (page,) = Path(os.environ["GDSD_HOME"]).glob("progress-micro-*/progress.html")
    (report,) = Path(os.environ["GDSD_HOME"]).glob("run-micro-*/report.html")
    assert "micro: ended" in page.read_text() and f"href='../{report.parent.name}/report.html'" in page.read_text()


def test_more_patience_goes_on_from_the_cache(train: Train, said: Callable[[], list[int]]) -> None:
    """If it fails, a run that was stopped too early begins anew, and so does one that is to be evaluated elsewhere."""
    train(configure(patience=1))
    record, _ = train(configure(patience=2))
    assert set(said()) <= {1, 2, 3} and said()[-1] == 3 and len(record.epochs) == 3
    computed = len(said())
    record, text = train(configure())
    assert said()[computed:] == [4] and len(record.epochs) == 4 and "stopped" not in text
    record, _ = train(configure(validate_every=3))
    assert len(said()) == computed + 1 and [report.round for report in record.validations] == [3, 4]


def test_a_run_in_bundles_is_the_one_without(
    train: Train, said: Callable[[], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, a run depends on how its legs are nested, or one with more rounds computes all of them again."""

    def numbers(record: RunRecord) -> object:
        return without_times(record.model_dump(mode="json", exclude={"config"}))

    train(configure(seed=1, rounds=2))
    monkeypatch.setattr(rounds, "WIDEST", 2)
    nested, _ = train(configure(seed=1, rounds=5))  # ((1, 2), (3, 4)), ((5))
    assert said() == [1, 2, 3, 4, 5] and [report.round for report in nested.validations] == [1, 2, 3, 4, 5]
    monkeypatch.undo()
    flat, _ = train(configure(seed=1, rounds=5))
    assert said() == [1, 2, 3, 4, 5] and numbers(flat) == numbers(nested)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"patience": 3}, ["patience 3", "4 times", "at most 2"]),
        ({"patience": 1, "validate_every": 2}, ["patience 1", "2 times", "more often"]),
        ({"patience": 0}, ["patience", "0", ">= 1"]),
    ],
)
def test_a_patience_that_nothing_can_try_is_refused(changes: dict[str, object], words: list[str]) -> None:
    """If it fails, a switch has no effect and nobody is told."""
    with pytest.raises(ConfigError) as refused:
        configure(**changes)
    assert all(word in str(refused.value) for word in words), refused.value


def test_rounds_in_one_task_are_the_same_run(
    train: Train, said: Callable[[], list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    """If it fails, a run that stays in memory is another experiment, tells of its rounds late, or makes them twice."""

    def numbers(record: RunRecord) -> object:
        return without_times(record.model_dump(mode="json", exclude={"config"}))

    learns: dict[str, object] = {"seed": 2, "distill": {}, "validate_every": 2}
    expected, _ = train(configure(**learns))
    resident, _ = train(configure(**learns, rounds_per_task=2, keep_rollouts=[3]))
    assert numbers(resident) == numbers(expected)
    assert said() == [1, 2, 3, 4, 1, 2, 3, 4]
    train(configure(**learns, rounds_per_task=2, keep_rollouts=[3], rounds=6))
    assert said()[8:] == [5, 6]
    home = Path(os.environ["GDSD_HOME"])
    (kept,) = home.glob("completions-*/kept/round-*.parquet")
    assert kept.name == "round-00003.parquet" and not [*home.glob("rounds-*")]
