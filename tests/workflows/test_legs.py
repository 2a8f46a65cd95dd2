"""A run in legs: where they are cut, what a cluster is given of them, and how a run stops early."""

import json
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from flyteidl.core.dynamic_job_pb2 import DynamicJobSpec

from tasks.flyte.pace import Pace
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.errors import ConfigError
from tasks.gdsd.records import Progress
from tasks.gdsd.run.run_record import RunRecord
from tests.gdsd.series import validation
from tests.workflows.test_compiled import leg_inputs, unroll
from workflows import gdsd, rounds

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


def chain(config: TrainConfig, folder: Path) -> DynamicJobSpec:
    wanted = rounds.run_rounds.python_interface.inputs
    inputs = {name: value for name, value in leg_inputs(config, folder).items() if name in wanted}
    return unroll(rounds.run_rounds, inputs | {"distill": config.distill})


def test_no_specification_has_more_nodes_than_a_leg(tmp_path: Path) -> None:
    """If it fails, a cluster has to keep hundreds of nodes of one workflow: 480 of the default run, all its rounds."""
    default = TrainConfig()
    assert len(chain(default, tmp_path).nodes) == 15
    leg = unroll(rounds.run_leg, leg_inputs(default, tmp_path, end=10))
    assert len(leg.nodes) == 10 * 4 + 2
    assert len(chain(configure(rounds=150, validate_every=1), tmp_path).nodes) == 150


def test_progress_is_reported_beside_the_rounds(tmp_path: Path) -> None:
    """If it fails, a page that is drawn holds up the next round, or an evaluation waits for it."""
    nodes = unroll(rounds.run_leg, leg_inputs(TrainConfig(), tmp_path, end=3)).nodes
    reports = {node.id for node in nodes if node.metadata.name.endswith("report_progress")}
    assert len(reports) == 3
    waiting = {node.id for node in nodes if reports & {*node.upstream_node_ids}}
    assert waiting < reports  # only the next report waits for one


def test_a_leg_of_a_stopped_run_launches_nothing(tmp_path: Path) -> None:
    """If it fails, patience costs pods and GPUs for rounds that nobody wants."""
    before, last = validation(10, 0.5), [validation(20, 0.4)]
    state = {"progress": Progress(validations=[before]), "validation": last}

    def nodes(patience: int) -> int:
        found = unroll(rounds.run_leg, leg_inputs(configure(rounds=150, patience=patience), tmp_path, **state))
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
    page = Path(os.environ["GDSD_HOME"], "progress-micro", "progress.html").read_text()
    assert "micro: round" in page


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
