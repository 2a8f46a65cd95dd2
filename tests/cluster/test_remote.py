"""`train`, `evaluate` and `compare` by `pyflyte run --remote`, unmodified, against the same on this machine."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.gdsd.run.run_record import RunRecord
from tests.cluster.backend.state import Execution
from tests.cluster.conftest import OVERHEAD
from tests.cluster.stand_in import (
    BUCKET,
    SMALL,
    TRAIN,
    Cluster,
    addresses,
    begin_here,
    finish,
    output,
    reached,
    record_here,
    tries,
)
from tests.workflows.conftest import without_times

pytestmark = pytest.mark.cluster
WORKFLOWS = "workflows/gdsd.py"
# A file of one's own, with another one beside it, travels; this machine and the pods find both by their folder.
OWN = {"name": "custom", "path": "own_reward:Squared", "folder": "project:tests/cluster/own"}
PROMPTS = {"prompts": SMALL["prompts"] | {"domain": OWN}}
COMPARE = SMALL | {
    "name": "cluster",
    **PROMPTS,
    "seeds": [0, 1],
    "rounds": 1,
    "evaluate_every": 1,
    # Neither leaves a contestant the learning rate that it came with.
    "tuning": {"factors": [0.1, 2.0], "seeds": [2]},
    "contestants": {"espo": {"objective": {"name": "espo"}, "learning_rate": 0.02, "warmup_steps": 0}},
}
EVALUATE = {"prompts": {"test_size": SMALL["prompts"]["test_size"], "domain": OWN}, "evaluation": SMALL["evaluation"]}
STAGES = {
    "prepare_prompts",
    "check_rewards",
    "prepare_policy",
    "generate_rollouts",
    "reward_rollouts",
    "distill_epoch",
    "answer_problems",
    "verify_answers",
    "report_progress",
}

Write = Callable[[str, dict[str, Any]], Path]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs on this machine have their cache and data."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def trained(cluster: Cluster, written: Write, home: Path) -> tuple[list[Execution], Any]:
    """The same execution, started twice at the same moment on an empty cache, and the record of a run here."""
    config = written("train", TRAIN | PROMPTS)
    started = [cluster.start(name, WORKFLOWS, "train", "--config", config) for name in ("train-a", "train-b")]
    here = begin_here(home, WORKFLOWS, "train", "--config", config)
    finish(here)
    return [each.succeeded() for each in started], record_here(home, "run.json")


def test_a_remote_run_gives_the_numbers_of_a_local_one(
    cluster: Cluster, trained: tuple[list[Execution], Any], request: pytest.FixtureRequest
) -> None:
    """If it fails, a policy depends on where it was trained, and what worked on a laptop says nothing of a cluster."""
    executions, here = trained
    records = [cluster.record(execution, "run.json") for execution in executions]
    for where, found in (("here", [here]), ("on the cluster", records)):
        # What the other execution had computed before says nothing of a round; of two, one computed the first epoch.
        timed = [overhead for record in found if (overhead := RunRecord.model_validate(record).overhead())]
        assert timed, f"no round {where} says what it took beyond its work"
        request.node.user_properties.append((OVERHEAD, f"{where}: {timed[0]}"))
    assert [without_times(record) for record in records] == [without_times(here)] * 2


def test_two_executions_at_once_compute_each_task_once(cluster: Cluster, trained: tuple[list[Execution], Any]) -> None:
    """If it fails, a run that was started twice by mistake costs twice the GPUs."""
    computed, served = Counter(), Counter()
    for execution in trained[0]:
        for attempt in execution.attempts:
            if attempt.serialised:
                (served if attempt.cached else computed)[attempt.task, attempt.key] += 1
    assert {stage for stage in STAGES for task, _ in computed if stage in task} == STAGES
    assert set(computed.values()) == {1}
    assert served == computed  # by the other one


def test_rounds_in_one_pod_give_the_same_numbers(
    cluster: Cluster, trained: tuple[list[Execution], Any], written: Write, request: pytest.FixtureRequest
) -> None:
    """If it fails, a run that pays for no pod of each stage is another experiment, or pays for them after all."""
    config = written("resident", TRAIN | PROMPTS | {"rounds_per_task": TRAIN["rounds"]})
    execution = cluster.start("resident", WORKFLOWS, "train", "--config", config).succeeded()
    assert not tries(execution, "generate_rollouts") and not tries(execution, "distill_epoch")
    record = cluster.record(execution, "run.json")
    (overhead,) = [RunRecord.model_validate(record).overhead()]
    request.node.user_properties.append((OVERHEAD, f"in one pod: {overhead}"))
    found, wanted = (without_times({**each, "config": None}) for each in (record, trained[1]))
    assert found == wanted


def test_nothing_but_the_object_store_is_shared(cluster: Cluster, trained: tuple[list[Execution], Any]) -> None:
    """If it fails, a task looks for what another one left on a disk, which on a cluster is another machine's."""
    for execution in trained[0]:
        maps = [execution.inputs, execution.outputs]
        maps += [values for node in execution.nodes.values() for values in (node.inputs, node.outputs)]
        found = [address for values in maps if values is not None for address in addresses(values)]
        assert len(found) > 20 and all(address.startswith(f"s3://{BUCKET}/flyte/") for address in found)
        for attempt in execution.attempts:
            if not attempt.cached:  # the code is what was uploaded, unpacked into an empty folder
                assert attempt.command[0] == "pyflyte-fast-execute"
                code = attempt.option("--additional-distribution")
                assert code in cluster.backend.registry.uploads and code.startswith(f"s3://{BUCKET}/")


def test_a_policy_is_evaluated_alike_on_the_cluster_and_here(
    cluster: Cluster, trained: tuple[list[Execution], Any], written: Write, home: Path
) -> None:
    """If it fails, a checkpoint on an object store is not the policy that it is on a disk."""
    policy = f"{cluster.folder(trained[0][0])}/policy"
    (local,) = home.glob(".flyte/gdsd/run-*/policy")
    config = written("evaluate", EVALUATE)
    there = cluster.start("evaluate", WORKFLOWS, "evaluate", "--policy", policy, "--config", config)
    checking = cluster.start("check", WORKFLOWS, "check", "--config", written("train", TRAIN | PROMPTS))
    finish(begin_here(home, WORKFLOWS, "evaluate", "--policy", local, "--config", config))
    execution = there.succeeded()
    assert len(tries(execution, "answer_problems")) == 1
    reports = [cluster.record(execution, "evaluation.json"), record_here(home, "evaluation.json")]
    assert without_times(reports[0]) == without_times(reports[1])
    assert reached(reports[0][0]) == reached(trained[1]["trained"])
    checked = output(checking.succeeded())
    assert checked["warnings"] == [] and "own_reward:Squared: 8 problems of train" in checked["text"]


def test_a_comparison_gives_the_numbers_of_a_local_one(cluster: Cluster, written: Write, home: Path) -> None:
    """If it fails, who wins a comparison depends on where it was run."""
    config = written("compare", COMPARE)
    there = cluster.start("compare", WORKFLOWS, "compare", "--config", config)
    finish(begin_here(home, WORKFLOWS, "compare", "--config", config))
    record = cluster.record(there.succeeded(), "comparison.json")
    (tuning,) = record["tunings"]
    assert {run["learning_rate"] for run in record["series"]} == {tuning["distill"]["learning_rate"]}
    assert tuning["distill"]["learning_rate"] != COMPARE["contestants"]["espo"]["learning_rate"]
    assert without_times(record) == without_times(record_here(home, "comparison.json"))
