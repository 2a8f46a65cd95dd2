"""What a cluster does to a run: killed processes, stores and hubs that refuse, checkpoints that are damaged."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.gdsd.report import model_card
from tests.cluster.backend.state import Attempt, Execution
from tests.cluster.stand_in import (
    BUCKET,
    SMALL,
    TRAIN,
    Cluster,
    Started,
    begin_here,
    finish,
    logs,
    output,
    reached,
    record_here,
    tries,
    until,
)
from tests.gdsd.fake_hub import TOKEN, FakeHub
from tests.workflows.conftest import without_times

pytestmark = pytest.mark.cluster
WORKFLOWS = "workflows/gdsd.py"
# Other problems and another base than those of test_remote.py, whose cache would otherwise not be empty.
SHORT = TRAIN | {
    "prompts": TRAIN["prompts"] | {"seed": 1},
    "policy": TRAIN["policy"] | {"seed": 1},
    "rounds": 1,
    "rollout": TRAIN["rollout"] | {"shards": 2},
    "distill": TRAIN["distill"] | {"inner_steps": 80},
}
EVALUATE = {"prompts": {"seed": 1, "test_size": SMALL["prompts"]["test_size"]}, "evaluation": SMALL["evaluation"]}

Write = Callable[[str, dict[str, Any]], Path]


def attempt_at(execution: Execution, task: str, number: int) -> Attempt:
    """Waits for a first attempt at the `number`th node of a task, counted from 0 in the order of their starts."""

    def found() -> Attempt | None:
        firsts = [each for each in execution.attempts if task in each.task and each.number == 0]
        return firsts[number] if len(firsts) > number else None

    return until(found, f"{task} to start")


def kill(attempt: Attempt) -> None:
    """Kills an attempt once its processes run."""
    until(lambda: attempt.group, f"a process of {attempt.node}")
    attempt.kill()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the undisturbed run on this machine has its cache and data."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def disturbed(cluster: Cluster, written: Write, home: Path) -> tuple[Execution, Any]:
    """A run of which one shard and one epoch were killed, and the record of an undisturbed one."""
    config = written("train", SHORT)
    started = cluster.start("disturbed", WORKFLOWS, "train", "--config", config)
    here = begin_here(home, WORKFLOWS, "train", "--config", config)
    execution = started.watch()
    kill(attempt_at(execution, "generate_rollouts", 1))
    epoch = attempt_at(execution, "distill_epoch", 0)
    states = epoch.option("--checkpoint-path")
    until(lambda: cluster.files.find(states), "the first state of the epoch")
    kill(epoch)
    finish(here)
    return started.succeeded(), record_here(home, "run.json")


def test_a_disturbed_run_ends_with_the_numbers_of_an_undisturbed_one(
    cluster: Cluster, disturbed: tuple[Execution, Any]
) -> None:
    """If it fails, cheap machines that are taken away train another policy."""
    execution, here = disturbed
    assert without_times(cluster.record(execution, "run.json")) == without_times(here)


def test_a_killed_epoch_goes_on_from_its_last_state(disturbed: tuple[Execution, Any]) -> None:
    """If it fails, a machine that is taken away every few hours never finishes a long epoch."""
    execution, _ = disturbed
    (epoch,) = tries(execution, "distill_epoch").values()
    assert [(each.number, each.outcome) for each in epoch] == [(0, "ContainerExited"), (1, "SUCCEEDED")]
    log = epoch[1].log.read_text()
    (line,) = [line for line in log.splitlines() if "an earlier attempt at this epoch got to update" in line]
    update = int(line.split("got to update")[1].split(";")[0])
    assert 0 < update < SHORT["distill"]["inner_steps"]


def test_a_killed_shard_is_made_again_alone(disturbed: tuple[Execution, Any]) -> None:
    """If it fails, one lost machine of many costs the whole round."""
    execution, _ = disturbed
    shards = sorted(len(attempts) for attempts in tries(execution, "generate_rollouts").values())
    assert shards == [1, 2]
    others = [
        attempt
        for attempt in execution.attempts
        if attempt.number > 0 and "distill_epoch" not in attempt.task and "generate_rollouts" not in attempt.task
    ]
    assert not others


def evaluate(cluster: Cluster, written: Write, name: str, policy: str) -> Started:
    return cluster.start(*(name, WORKFLOWS, "evaluate", "--policy", policy, "--config", written("evaluate", EVALUATE)))


def copied(cluster: Cluster, disturbed: tuple[Execution, Any], name: str) -> str:
    """Copies the trained policy to a new address, so that nothing about it is in the cache."""
    place = f"s3://{BUCKET}/policies/{name}"
    cluster.files.copy(f"{cluster.folder(disturbed[0])}/policy", place, recursive=True)
    assert cluster.files.exists(f"{place}/gdsd.json")
    return place


def test_a_store_that_refuses_for_a_while_costs_an_attempt(
    cluster: Cluster, disturbed: tuple[Execution, Any], written: Write
) -> None:
    """If it fails, a minute in which the store is busy ends a run of days."""
    policy = copied(cluster, disturbed, "busy")
    path = policy.removeprefix("s3:/") + "/model.safetensors"
    cluster.weather.refuses = lambda asked: asked == path
    started = evaluate(cluster, written, "busy", policy)

    def clear() -> None:
        try:
            attempt = attempt_at(started.watch(), "answer_problems", 0)
            until(lambda: attempt.outcome, "the first attempt to end")
        finally:
            cluster.weather.refuses = lambda asked: False

    watcher = threading.Thread(target=clear)
    watcher.start()
    execution = started.succeeded()
    watcher.join()
    ((first, second),) = tries(execution, "answer_problems").values()
    assert first.outcome != "SUCCEEDED" and second.outcome == "SUCCEEDED"
    (report,) = cluster.record(execution, "evaluation.json")
    assert reached(report) == reached(disturbed[1]["trained"])


def failure_of(cluster: Cluster, execution: Execution, workflow: str, task: str) -> Any:
    """Returns the record of an execution that failed in a task, once it is seen to name the node."""
    assert execution.phase == "FAILED", logs(execution)
    ((node, attempts),) = tries(execution, task).items()
    assert len(attempts) == 1, "an error that would come again was tried again"
    # The items of a map task are no nodes of their own to the node that failed.
    maps = [path for path, found in execution.nodes.items() if found.kind == "array_node"]
    node = next((path for path in maps if node.startswith(f"{path}-")), node)
    (record,) = cluster.files.glob(f"{BUCKET}/flyte/raw/{execution.name}-*/**/failure.json")
    failure = json.loads(cluster.files.cat_file(record))
    assert (failure["workflow"], failure["execution"].split(":")[-1]) == (workflow, execution.name)
    assert failure["node"] == node and execution.nodes[node].phase == "FAILED"
    assert f"workflows/gdsd.py {workflow} " in failure["go_on"]
    return failure


@pytest.mark.parametrize("damage", ["truncated", "changed"])
def test_a_damaged_checkpoint_is_named_and_not_tried_again(
    cluster: Cluster, disturbed: tuple[Execution, Any], written: Write, damage: str
) -> None:
    """If it fails, a policy of which a part was lost is evaluated, or nobody is told which file of which run it was."""
    policy = copied(cluster, disturbed, damage)
    weights = cluster.files.cat_file(f"{policy}/model.safetensors")
    half = len(weights) // 2
    broken = weights[:half] if damage == "truncated" else weights[:-1] + bytes([weights[-1] ^ 1])
    cluster.files.pipe_file(f"{policy}/model.safetensors", broken)
    execution = evaluate(cluster, written, damage, policy).ended()
    failure = failure_of(cluster, execution, "evaluate", "answer_problems")
    for message in (execution.error.message, failure["message"]):
        assert "CheckpointError" in message and "model.safetensors" in message


def test_a_training_that_fails_says_what_and_where(cluster: Cluster, written: Write) -> None:
    """If it fails, who finds a run dead in the morning has to search the logs of all its pods."""
    source = {"path": f"s3://{BUCKET}/problems/other.jsonl", "sha256": "0" * 64}
    cluster.files.pipe_file(source["path"], b"{}\n")
    config = written("failing", TRAIN | {"prompts": TRAIN["prompts"] | {"train_data": source}})
    execution = cluster.start("failing", WORKFLOWS, "train", "--config", config).ended()
    failure = failure_of(cluster, execution, "train", "prepare_prompts")
    assert failure["experiment"] == TRAIN["name"]
    for message in (execution.error.message, failure["message"]):
        assert "DataError" in message and source["path"] in message and "was pinned" in message


def test_a_hub_that_fails_for_a_moment_still_gets_the_policy(
    cluster: Cluster, disturbed: tuple[Execution, Any]
) -> None:
    """If it fails, a cluster cannot publish what this machine can.

    The task itself waits and tries again, in one attempt. The hub is a server on this machine. The stand-in knows no
    secrets: their places in the environment are filled by hand.
    """
    folder = cluster.folder(disturbed[0])
    publish = {
        "trackers": [{"name": "tensorboard", "folder": f"s3://{BUCKET}/runs"}],
        "hub": {"repo": "org/policy", "when": "always"},
    }
    with FakeHub() as hub:
        hub.failures["/commit/"] = [503]
        given = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "_FSEC_GDSD_HF_TOKEN": TOKEN}
        variables = [word for name, value in given.items() for word in ("--env", f"{name}={value}")]
        words = ("workflows/publish.py", "publish", "--folder", folder, "--publish", json.dumps(publish))
        execution = cluster.start("publish", *variables, *words).succeeded()
        assert [len(attempts) for attempts in tries(execution, "push_policy").values()] == [1], (
            "it waits and tries again"
        )
        files = hub.files["org/policy"]
    assert files["model.safetensors"] == cluster.files.cat_file(f"{folder}/policy/model.safetensors")
    card = cluster.files.cat_file(f"{folder}/README.md").decode()
    assert files["README.md"].decode() == model_card.on_hub(card, "org/policy") != card
    told = [name.rpartition("/")[2] for name in cluster.files.find(f"{BUCKET}/runs")]
    assert "report.html" in told and len([name for name in told if "tfevents" in name]) == SHORT["rounds"] + 2


def test_a_run_that_a_tracker_does_not_take_succeeds_and_says_so(cluster: Cluster, written: Write) -> None:
    """If it fails, trackers hear of a run when it is over, or one that is away makes a good training look failed."""
    trackers = [
        {"name": "mlflow", "uri": "http://127.0.0.1:9"},
        {"name": "tensorboard", "folder": f"s3://{BUCKET}/told"},
    ]
    config = SHORT | {"seed": 5, "rounds": 2, "validate_every": 1, "publish": {"trackers": trackers}}
    config["distill"] = SHORT["distill"] | {"inner_steps": 3}
    execution = cluster.start("told", WORKFLOWS, "train", "--config", written("told", config)).succeeded()
    # Each once beside the second leg, and once at the end.
    assert len(tries(execution, "track_run")) == 4
    failed, told = output(execution)["deliveries"]
    assert told["problem"] is None and "does not answer" in failed["problem"]
    assert "pyflyte run --remote" in failed["repeat"] and cluster.folder(execution) in failed["repeat"]
    first = next(attempt for attempt in execution.attempts if "track_run" in attempt.task)
    last = [attempt for attempt in execution.attempts if "distill_epoch" in attempt.task][-1]
    assert execution.attempts.index(first) < execution.attempts.index(last)
    assert len([name for name in cluster.files.find(f"{BUCKET}/told") if "tfevents" in name]) == 4
