"""`compare` as its user meets it: run, run again, kill, add a seed; and each of its fields."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from tasks.gdsd.config.compare import CompareConfig, TuningConfig
from tests.workflows.conftest import ROOT, Outcome, Pyflyte, quick_runs, run_in_process, without_times

MICRO: dict[str, object] = {
    "name": "micro",
    "seeds": [0, 1],
    "tuning": {"factors": [0.3, 1.0], "seeds": [100]},
    "rounds": 2,
    "evaluate_every": 1,
    "prompts": {"train_size": 32, "validation_size": 16, "test_size": 24},
    "policy": {
        "tiny": {"hidden_size": 16, "intermediate_size": 16, "layers": 1, "heads": 2},
        "warm_start": {"steps": 20, "batch_size": 32, "learning_rate": 0.02},
    },
    "rollout": {"prompts_per_round": 8, "group_size": 4, "sampler": {"steps_per_block": 4}},
    "evaluation": {"sampler": {"steps_per_block": 4}},
    "contestants": {
        "gdsd": {"objective": {"mask_source": "random"}},
        "wd1": {"objective": {"name": "wd1"}},
    },
}


def config(**changes: object) -> str:
    return json.dumps(MICRO | changes)


def record(outcome: Outcome) -> dict[str, object]:
    found = without_times(json.loads((outcome.folder() / "comparison.json").read_text()))
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def compared(pyflyte: Pyflyte, home: Path) -> Outcome:
    """The micro comparison, undisturbed."""
    outcome = pyflyte("run", "workflows/gdsd.py", "compare", "--config", config(), home=home)
    assert outcome.code == 0, outcome.text
    return outcome


def test_a_comparison_ranks_every_contestant(compared: Outcome) -> None:
    """The table, the figure and the raw numbers are what a comparison is for."""
    table = (compared.folder() / "table.md").read_text()
    assert all(f"| {name} |" in table for name in ("gdsd", "wd1"))
    rows = pq.read_table(compared.folder() / "curves.parquet").to_pylist()
    # Per contestant 2 factors x 1 seed on validation and 2 seeds on test problems, each with 2 points.
    assert len(rows) == 2 * (2 + 2) * 2
    assert {(row["split"], row["problems"]) for row in rows} == {("validation", 16), ("test", 24)}
    for name in ("gdsd", "wd1"):
        mine = [row for row in rows if row["contestant"] == name]
        ends = {row["learning_rate"]: row for row in mine if row["split"] == "validation" and row["round"] == 2}
        assert set(ends) == {0.3 * 2e-3, 2e-3}
        # The rate of the test runs is the one that ended highest on the validation problems; ties go elsewhere.
        (rate,) = {row["learning_rate"] for row in mine if row["split"] == "test"}
        assert ends[rate]["reward"] == max(row["reward"] for row in ends.values())


def test_all_contestants_start_from_the_same_rollouts(compared: Outcome) -> None:
    """If it fails, objectives are compared on different data: round 1's rollouts are made by the base with one seed."""
    rows = pq.read_table(compared.folder() / "curves.parquet").to_pylist()
    first = {row["rollout_reward"] for row in rows if row["round"] == 1 and row["seed"] == 0}
    assert len(first) == 1


def test_the_same_comparison_again_trains_nothing(compared: Outcome, pyflyte: Pyflyte, home: Path) -> None:
    """A comparison costs most of an hour; looking at it again must not."""
    again = pyflyte("run", "workflows/gdsd.py", "compare", "--config", config(), home=home)
    assert again.code == 0, again.text
    assert again.rounds_computed() == [] and record(again) == record(compared)


@pytest.mark.whole
def test_a_further_seed_trains_only_that_seed(compared: Outcome, pyflyte: Pyflyte, home: Path) -> None:
    """If it fails, a wider comparison starts from nothing."""
    wider = pyflyte("run", "workflows/gdsd.py", "compare", "--config", config(seeds=[0, 1, 2]), home=home)
    assert wider.code == 0, wider.text
    assert wider.rounds_computed() == [1, 2] * 2


@pytest.mark.whole
def test_a_killed_comparison_continues(compared: Outcome, pyflyte: Pyflyte, tmp_path: Path) -> None:
    """After kill -9 only what is missing is computed, and the same numbers come out."""
    command = ("run", "workflows/gdsd.py", "compare", "--config", config())
    killed = run_in_process(*command, home=tmp_path, said=lambda line: "wd1 at learning rate" in line)
    assert killed.code == -signal.SIGKILL
    resumed = pyflyte(*command, home=tmp_path)
    assert resumed.code == 0, resumed.text
    # gdsd's four runs and wd1's first are done; wd1's other three at most are left, two rounds each.
    assert len(resumed.rounds_computed()) <= 2 * 3
    assert record(resumed) == record(compared)


def test_the_default_is_the_shipped_config() -> None:
    """`compare` without --config and with configs/compare_tiny.yaml are one comparison."""
    shipped = yaml.safe_load((ROOT / "configs/compare_tiny.yaml").read_text())
    assert CompareConfig.model_validate_json(json.dumps(shipped)) == CompareConfig()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": [1, 1]}, "more than once"),
        ({"seeds": [1]}, "seeds: got"),
        ({"seeds": [99, 100]}, "tuning.seeds has .100. of seeds"),
        (
            {"contestants": {"x": {"learning_rate": 0.5}}, "tuning": {"factors": [1.0, 3.0]}},
            "x.learning_rate 0.5 times",
        ),
        ({"tuning": {"factors": [1.0]}}, "tuning.factors"),
        ({"tuning": {"factors": [1.0, 1.0]}}, "more than once"),
        ({"contestants": {}}, "contestants"),
        ({"seeds": [*range(50)]}, "6 contestants with 53 runs each are 318 runs, .* at most 200"),
        ({"contestants": {"x": {"objective": {"name": "grpo"}}}}, r"contestants.x.objective.name: got 'grpo'"),
        (
            {"contestants": {"x": {"objective": {"name": "wd1", "clip": 1}}}},
            "contestants.x.objective.clip: unknown key",
        ),
        ({"contestants": {"X y": {}}}, "contestants"),
        ({"rollout": {"prompts_per_round": 9999}}, "exceeds prompts.train_size"),
        (
            {"rounds_per_task": 2, "contestants": {"x": {"compute": {"processes": 2}}}},
            "lets the 2 contestants.x.compute.processes share the shards",
        ),
        ({"seed": [1]}, "did you mean 'seeds'"),
        (
            {
                "policy": {"model": {"hub": "a/b", "revision": "0" * 40}, "adapter": {"base_bits": 4}},
                "contestants": {"x": {"compute": {"processes": 2, "sharding": "fsdp"}}},
            },
            "contestants.x.compute.sharding 'fsdp' does not spread",
        ),
    ],
)
def test_impossible_comparisons_are_refused(change: dict[str, object], message: str) -> None:
    """An hour of training must not end in the error that could have been its first line."""
    with pytest.raises(ValueError, match=message):
        CompareConfig.model_validate_json(json.dumps(change))


QUICK: dict[str, object] = {"contestants": {"gdsd": {"objective": {"mask_source": "random"}}}}
# A changed value per field; those of the parts that `train` has too are tested one by one in test_every_field.py.
CHANGES: dict[str, object] = {
    "name": "other",
    "seeds": [0, 2],
    "tuning": None,
    "tuning.factors": {"factors": [0.1, 0.2], "seeds": [100]},
    "tuning.seeds": {"factors": [0.3, 1.0], "seeds": [101]},
    "rounds": 1,
    "evaluate_every": 2,
    "prompts": {"train_size": 32, "validation_size": 16, "test_size": 24, "seed": 1},
    "policy": {
        "tiny": {"hidden_size": 16, "intermediate_size": 16, "layers": 1, "heads": 2},
        "warm_start": {"steps": 9},
    },
    "rollout": {"prompts_per_round": 8, "group_size": 5, "sampler": {"steps_per_block": 4}},
    "reward": {"scale_by_std": True},
    "evaluation": {"sampler": {"steps_per_block": 2}},
    "contestants": {"gdsd": {"objective": {"mask_source": "random", "guidance": 5.0}}},
}
ELSEWHERE = {
    "hardware",  # tests/workflows/test_hardware.py
    "rounds_per_task",  # below: it changes nothing but time
}


def test_every_field_is_covered() -> None:
    """A new field must show here what it changes."""
    own = {*CompareConfig.model_fields, *(f"tuning.{name}" for name in TuningConfig.model_fields)}
    assert own == {*CHANGES, *ELSEWHERE}


def curves(changes: dict[str, object]) -> object:
    """What a comparison in this process found: rewards only, since its labels change with the config in any case."""
    from workflows import gdsd

    result = gdsd.compare(config=CompareConfig.model_validate_json(config(**(QUICK | changes))))
    folder = Path(os.fspath(result.folder.path))
    rows = pq.read_table(folder / "curves.parquet").to_pylist()
    title = (folder / "report.html").read_text().split("<h1>")[1].split("</h1>")[0]
    return title, [(row["round"], row["reward"], row["rollout_reward"]) for row in rows]


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    with quick_runs(tmp_path_factory.mktemp("data")):
        yield curves({})


def test_runs_stay_in_memory_where_their_comparison_says_so() -> None:
    """If it fails, a comparison starts a pod for each stage of each round that was to stay in memory."""
    stays = CompareConfig.model_validate_json(config(rounds_per_task=2))
    assert [each.run("gdsd", "x", 0).rounds_per_task for each in (stays, CompareConfig())] == [2, 1]


@pytest.mark.whole
def test_rounds_in_memory_change_no_comparison(unchanged: object, tmp_path: Path) -> None:
    """If it fails, objectives are compared on other numbers than those of their runs."""
    every = {"evaluate_every": 2}
    with quick_runs(tmp_path):
        staged, resident = curves(every), curves(every | {"rounds_per_task": 2})
    assert staged == resident != unchanged


@pytest.mark.whole
@pytest.mark.parametrize("field", CHANGES)
def test_the_field_changes_something(field: str, unchanged: object) -> None:
    """A switch without effect misleads whoever turns it."""
    assert curves({field.split(".")[0]: CHANGES[field]}) != unchanged
