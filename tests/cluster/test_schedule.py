"""Nights and a week of the schedule, registered and activated as docs/schedule.md says, with the registry on S3.

The launch plans are started as cron starts them: by name, with nothing but the time. No time passes in the stand-in, so
cron itself is not tried. A writer of the registry is killed, a night is repeated under another version, a rollback
comes beside a night, and a record of the log is damaged.
"""

import hashlib
import json
import random
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.domains.sudoku import solutions
from tasks.gdsd.registry.registry import Registry
from tasks.promote import open_registry
from tests.cluster.backend.state import Execution
from tests.cluster.stand_in import BUCKET, Cluster, logs, output, reached, tries, until

pytestmark = pytest.mark.cluster
REGISTRY = f"s3://{BUCKET}/registry"
PROJECT, DOMAIN, VERSION, NEXT = "flytesnacks", "development", "v1", "v2"
# All puzzles have the same solution, which a policy that knows most of it learns in an epoch.
SOLUTION = "1234341221434321"
NIGHTLY = {
    "name": "nightly",
    "rounds": 1,
    "rounds_per_task": 2,  # a process in place of three
    "prompts": {
        "domain": {"name": "sudoku", "min_empty": 3, "max_empty": 5},
        "train_size": 64,
        "validation_size": 4,
        "test_size": 32,
        "similarity": 1.0,
    },
    "policy": {
        "tiny": {"hidden_size": 64, "intermediate_size": 64, "layers": 1, "heads": 4},
        "warm_start": {"steps": 25, "batch_size": 32, "learning_rate": 0.01},
    },
    "rollout": {"prompts_per_round": 32, "group_size": 8, "sampler": {"steps_per_block": 4}},
    "distill": {
        "objective": {"mask_source": "trajectory", "guidance": 1.0, "trust_region": None, "reference_weight": 0},
        "ema_decay": 0.0,
        "inner_steps": 100,
        "learning_rate": 0.002,
        "warmup_steps": 0,
    },
    "evaluation": {"sampler": {"steps_per_block": 4}},
    "judge": {"resamples": 100, "confidence": 0.8},
}
# The days draw seeds and problems. On the first two a policy gains 25 points and more, which the gate finds clear.
FIRST, SECOND, THIRD, FOURTH, FIFTH = (datetime(2026, 11, day, 2, tzinfo=UTC) for day in (22, 23, 24, 25, 26))
MONDAY = datetime(2026, 11, 30, 14, tzinfo=UTC)

Write = Callable[[str, dict[str, Any]], Path]


@dataclass
class Schedule:
    """What became of it."""

    first: tuple[Execution, Execution]  # two nights at the same moment, with an empty registry
    later: Execution  # a night after them, with a gate that says no
    again: Execution  # the first night that promoted, once more
    week: Execution  # beside it
    start: Callable[..., None]  # starts a launch plan: the execution's name, the plan's, the time, other inputs
    strict: TrainConfig  # with a gate that says no
    registry: Registry
    active: dict[str, str]  # the version of each launch plan that cron would start

    @property
    def won(self) -> Execution:
        """The one of the first nights that promoted its policy."""
        return next(night for night in self.first if night.phase == "SUCCEEDED")


@pytest.fixture(scope="module")
def problems(cluster: Cluster) -> dict[str, dict[str, str]]:
    """Puzzles in the object store, and where they are."""
    drawn, found = random.Random(0), dict[str, None]()
    while len(found) < 300:
        empty = set(drawn.sample(range(16), drawn.randint(9, 11)))
        puzzle = "".join("." if cell in empty else digit for cell, digit in enumerate(SOLUTION))
        if len(solutions(puzzle)) == 1:
            found[puzzle] = None
    rows = [json.dumps({"puzzle": puzzle, "solution": SOLUTION}) + "\n" for puzzle in found]
    sources = {}
    for name, part in (("train_data", rows[:200]), ("test_data", rows[200:])):
        path, content = f"s3://{BUCKET}/problems/{name}.jsonl", "".join(part).encode()
        cluster.files.pipe_file(path, content)
        sources[name] = {"path": path, "sha256": hashlib.sha256(content).hexdigest()}
    return sources


def kill_writer(cluster: Cluster) -> None:
    """Kills the task that makes the first champion when it has written the record, and not yet the record's copy."""
    copy = re.compile(r"/registry/entries/[0-9a-f]{64}/log/00000001\.json$")
    begun, killed = threading.Event(), threading.Event()

    def hold(path: str) -> bool:
        if killed.is_set() or not copy.search(path):
            return False
        begun.set()
        return killed.wait(600)

    cluster.weather.refuses = hold
    until(begun.is_set, "a promotion")
    record = json.loads(cluster.files.cat_file(f"{REGISTRY}/log/00000001.json"))
    execution = cluster.backend.executions[record["who"].removeprefix("execution ")]
    (attempt,) = [attempt for attempt in execution.attempts if "tasks.promote.promote" in attempt.task]
    attempt.kill()
    killed.set()


@pytest.fixture(scope="module")
def schedule(cluster: Cluster, written: Write, problems: dict[str, dict[str, str]]) -> Iterator[Schedule]:
    """Registers and activates the launch plans, and lets time pass."""
    from flytekit.configuration import Config
    from flytekit.remote import FlyteRemote

    nightly = NIGHTLY | {"prompts": NIGHTLY["prompts"] | problems}
    weekly = {
        "prompts": {"test_size": NIGHTLY["prompts"]["test_size"], "test_data": problems["test_data"]},
        "evaluation": NIGHTLY["evaluation"],
    }

    def register(version: str) -> None:
        cluster.call(
            *("pyflyte", "-c", str(cluster.backend.config), "register", "-p", PROJECT, "-d", DOMAIN),
            # Where a pod's sources are unpacked, by default /root, which the stand-in's processes share with this
            # machine.
            *("--destination-dir", ".", "--version", version, "--activate-launchplans", "workflows"),
            GDSD_REGISTRY=REGISTRY,
            GDSD_RETRAIN_CONFIG=str(written("nightly", nightly)),
            GDSD_WEEKLY_CONFIG=str(written("weekly", weekly)),
        )

    register(VERSION)
    remote = FlyteRemote(Config.auto(str(cluster.backend.config)), default_project=PROJECT, default_domain=DOMAIN)

    active: dict[str, str] = {}

    def start(name: str, plan: str, when: datetime, **inputs: object) -> None:
        found = remote.fetch_active_launchplan(name=plan)
        assert found is not None, f"{plan} is not active, so no cron would start it"
        active[plan] = found.id.version
        remote.execute(found, inputs={"kickoff_time": when, **inputs}, execution_name=name)

    strict = TrainConfig.model_validate_json(json.dumps(nightly | {"judge": NIGHTLY["judge"] | {"margin": 0.99}}))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.access.items():
            patch.setenv(name, value)
        start("night-1", "nightly_retrain", FIRST)
        start("night-2", "nightly_retrain", SECOND)
        kill_writer(cluster)
        first = cluster.ended("night-1"), cluster.ended("night-2")
        start("night-3", "nightly_retrain", THIRD, config=strict)
        start("week", "weekly_evaluation", MONDAY)
        later, week = cluster.ended("night-3"), cluster.ended("week")
        register(NEXT)
        start("again", "nightly_retrain", FIRST if first[0].phase == "SUCCEEDED" else SECOND)
        yield Schedule(first, later, cluster.ended("again"), week, start, strict, open_registry(REGISTRY), active)


def test_what_was_registered_is_what_cron_starts(schedule: Schedule) -> None:
    """If it fails, nobody retrains at night, or an older version does."""
    assert schedule.active == {"nightly_retrain": NEXT, "weekly_evaluation": VERSION}, "what the last of each was"
    for execution in (*schedule.first, schedule.later, schedule.week):
        assert execution.spec.launch_plan.version == VERSION
    assert schedule.again.spec.launch_plan.version == NEXT


def test_of_two_nights_at_once_one_wins_and_the_other_is_stale(schedule: Schedule) -> None:
    """If it fails, a policy replaces a champion that it was never compared with, or a promotion is lost."""
    stale, won = sorted(schedule.first, key=lambda night: night.phase)
    assert [stale.phase, won.phase] == ["FAILED", "SUCCEEDED"], [logs(night) or output(night) for night in (stale, won)]
    result = output(won)
    (change,) = schedule.registry.history()
    assert result["night"]["promoted"] and (change.entry, change.previous) == (result["night"]["champion"], None)
    assert (change.action, change.who) == ("promoted", f"execution {won.name}")
    assert schedule.registry.entry(change.entry).made == {"night-1": FIRST, "night-2": SECOND}[won.name]
    assert "StaleError" in stale.error.message and "compared with an empty registry" in stale.error.message
    assert [len(attempts) for attempts in tries(stale, "tasks.promote.promote").values()] == [1]
    (promotions,) = tries(won, "tasks.promote.promote").values()
    assert [attempt.outcome for attempt in promotions] == ["ContainerExited", "SUCCEEDED"], "it was killed once"
    assert len(schedule.registry.entries()) == 2, "both have an entry that is whole; one never was champion"


def test_a_later_night_starts_from_the_champion_on_problems_of_its_own(cluster: Cluster, schedule: Schedule) -> None:
    """If it fails, every night starts from nothing, or learns the same problems by heart."""
    assert schedule.later.phase == "SUCCEEDED", f"{schedule.later.error}\n{logs(schedule.later)}"
    before, after = (cluster.record(night, "run.json") for night in (schedule.won, schedule.later))
    assert before["trained"]["reward"] != before["base"]["reward"], "a night that changes nothing shows nothing here"
    assert reached(after["base"]) == reached(before["trained"])
    assert tries(schedule.later, "take_policy") and not tries(schedule.later, "prepare_policy")
    assert before["config"]["prompts"]["train_seed"] != after["config"]["prompts"]["train_seed"]


def test_a_gate_that_says_no_leaves_the_champion(schedule: Schedule) -> None:
    """If it fails, a policy that is not better is served."""
    result, (change,) = output(schedule.later), schedule.registry.history()
    night = result["night"]
    assert not night["promoted"] and night["champion"] == change.entry == schedule.registry.champion()
    assert "does not clear" in result["run"]["reason"]


def test_a_night_that_is_repeated_trains_nothing(schedule: Schedule) -> None:
    """If it fails, who starts a night again pays for it again, and a policy trained on itself may be promoted."""
    assert schedule.again.phase == "SUCCEEDED", f"{schedule.again.error}\n{logs(schedule.again)}"
    before, after = output(schedule.won), output(schedule.again)
    assert after["run"] is None and after["entry"] == before["entry"] and after["folder"] == before["folder"]
    assert after["night"] == before["night"] and after["night"]["promoted"]
    assert not tries(schedule.again, "distill") and not tries(schedule.again, "tasks.prompts")


def test_the_week_scores_the_champion(cluster: Cluster, schedule: Schedule) -> None:
    """If it fails, the champion's numbers are not those that it was promoted for."""
    assert schedule.week.phase == "SUCCEEDED", f"{schedule.week.error}\n{logs(schedule.week)}"
    week, won = output(schedule.week), output(schedule.won)
    (kept,) = schedule.registry.evaluations.all()
    assert kept.entry == week["champion"] == won["night"]["champion"] and kept.when == MONDAY
    assert reached(week["result"]["reports"][0]) == reached(cluster.record(schedule.won, "run.json")["trained"])


def test_a_rollback_beside_a_night_holds_and_the_next_night_starts_from_it(
    cluster: Cluster, schedule: Schedule
) -> None:
    """If it fails, a bad champion stays until somebody writes a program, or comes back at two in the morning."""
    registry, files = schedule.registry, cluster.files
    champion = registry.champion()
    (other,) = set(registry.entries()) - {champion}
    schedule.start("beside", "nightly_retrain", FOURTH, config=schedule.strict)
    night = cluster.backend.executions["beside"]
    until(lambda: tries(night, "take_policy"), "a night that has its base")
    cluster.call("python", "-m", "tasks.registry", REGISTRY, "rollback", other[:12], "--reason", "a trial")
    assert not night.ended.is_set() and registry.champion() == other
    said = cluster.call("python", "-m", "tasks.registry", REGISTRY)
    assert f"champion  {other}" in said and champion[:12] in said and "a trial" in said and "evaluated" in said
    # Whoever damages the rollback's record does not undo it, for nights and people.
    record = f"{REGISTRY}/log/00000002.json"
    written = files.cat_file(record)
    files.pipe_file(record, written[:40])
    schedule.start("after", "nightly_retrain", FIFTH, config=schedule.strict)
    beside, after = cluster.ended("beside"), cluster.ended("after")
    assert beside.phase == "SUCCEEDED", f"{beside.error}\n{logs(beside)}"
    won, base = (cluster.record(execution, "run.json") for execution in (schedule.won, beside))
    assert reached(base["base"]) == reached(won["trained"])
    assert output(beside)["night"]["champion"] == other and not output(beside)["night"]["promoted"]
    assert after.phase == "SUCCEEDED", f"{after.error}\n{logs(after)}"
    trained = registry.entry(other).evidence["trained"]
    assert reached(cluster.record(after, "run.json")["base"]) == reached(trained)
    assert f"{record} is whole again" in cluster.call("python", "-m", "tasks.registry", REGISTRY, "mend")
    assert files.cat_file(record) == written
