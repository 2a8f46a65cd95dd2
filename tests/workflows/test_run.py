"""The main job as its user meets it: run, run again, extend, kill, clean up."""

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
import yaml

from tasks.gdsd import tables
from tasks.gdsd.config.compare import CompareConfig
from tasks.gdsd.config.model_source import ModelFolder
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.files import digest
from tasks.gdsd.run.provenance import Provenance
from tests.workflows.conftest import ROOT, SMOKE, Outcome, Pyflyte, run_in_process
from workflows import gdsd


def variant(folder: Path, **changes: object) -> Path:
    """Writes the smoke config with some keys changed."""
    config = yaml.safe_load(SMOKE.read_text())
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = config
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def test_a_run_says_what_happened_and_where_everything_lies(smoke: Outcome) -> None:
    """The last lines are what a person reads; each path in them must exist and hold what it says."""
    lines = [line.split(None, 1) for line in smoke.text.splitlines()[-10:]]
    words = ["base", "trained", "result", "gain", "decision", "seconds", "report", "metrics", "samples", "policy"]
    assert [line[0] for line in lines] == words
    said = dict(lines)
    assert "not promoted" in said["decision"] and "prompts" in said["seconds"]
    assert re.search(
        r"evaluation after round 1: [\d.]+ % of 32 validation problems solved, reward [\d.]+ \(", smoke.text
    )
    assert Path(said["report"]).read_text().startswith("<!doctype html>")
    rows = [json.loads(line) for line in Path(said["metrics"]).read_text().splitlines()]
    assert [(row["kind"], row["round"]) for row in rows[:3]] == [("base", 0), ("round", 1), ("round", 2)]
    assert all("validation/solved" in row for row in rows[1:3]) and [row["kind"] for row in rows[3:]] == ["test"]
    samples = tables.read(Path(said["samples"].strip()), tables.COMPARISON)
    assert {"base_reward_cells", "trained_reward_cells"} <= set(samples.column_names)
    origin = Provenance.model_validate_json(Path(said["report"]).with_name("environment.json").read_text())
    assert origin.policy_sha256 == digest(Path(said["policy"])) != origin.base_sha256 is not None
    assert origin.policy_pin == ModelFolder(path=said["policy"].strip()).sha256, "by which a run that goes on names it"
    assert origin.packages["flytekit"] and origin.execution is None and len(origin.sources_sha256) == 64
    assert {"config.json", "gdsd.json", "model.safetensors"} <= set(os.listdir(said["policy"]))


def test_the_same_command_again_is_served_from_the_cache(smoke: Outcome, pyflyte: Pyflyte, home: Path) -> None:
    """A second run that computes anything again costs a person the whole training."""
    again = pyflyte("run", "workflows/gdsd.py", "train", "--config", SMOKE, home=home)
    assert again.code == 0, again.text
    assert "rollouts" not in again.text and "evaluation after" not in again.text and again.rounds_computed() == []
    assert again.numbers() == smoke.numbers()
    # What was taken from the cache is said in a line, and is no time of this run.
    assert again.text.count("from the cache: ") == 1 and "from the cache" not in smoke.text
    assert "from the cache: prompts, policy, 4 evaluations, rounds 1 to 2\n" in again.text
    (seconds,) = [line for line in again.text.splitlines() if line.startswith("seconds ")]
    assert re.fullmatch(r"seconds   none; [0-9]+\.[0-9] came from the cache", seconds)


def test_other_hardware_computes_nothing_again(smoke: Outcome, pyflyte: Pyflyte, home: Path, tmp_path: Path) -> None:
    """A machine that is out of stock would otherwise cost a person the training so far."""
    other = {"kind": "h100", "memory": "64Gi", "spot": False}
    hardware = {"prompts": {"cpu": 8}, "policy": other, "rollout": other, "distill": other, "evaluation": other}
    moved = pyflyte("run", "workflows/gdsd.py", "train", "--config", variant(tmp_path, hardware=hardware), home=home)
    assert moved.code == 0, moved.text
    assert "rollouts" not in moved.text and "evaluation after" not in moved.text and moved.rounds_computed() == []
    assert moved.numbers() == smoke.numbers()


def test_more_rounds_compute_only_those(smoke: Outcome, pyflyte: Pyflyte, home: Path, tmp_path: Path) -> None:
    """Extending a run must not start it again."""
    longer = pyflyte("run", "workflows/gdsd.py", "train", "--config", variant(tmp_path, rounds=3), home=home)
    assert longer.code == 0, longer.text
    assert longer.rounds_computed() == [3]
    (seconds,) = [line for line in longer.text.splitlines() if line.startswith("seconds ")]
    assert (
        "rollout" in seconds and "distill" in seconds and "prompts" not in seconds and "came from the cache" in seconds
    )


def test_shards_and_batches_change_no_number(smoke: Outcome, pyflyte: Pyflyte, home: Path, tmp_path: Path) -> None:
    """A cluster with more machines would otherwise train another policy."""
    config = variant(tmp_path, rollout__shards=3, rollout__batch_size=5)
    resharded = pyflyte("run", "workflows/gdsd.py", "train", "--config", config, home=home)
    assert resharded.code == 0, resharded.text
    assert resharded.numbers() == smoke.numbers()
    # The completions are the same, so what follows them is still in the cache.
    assert resharded.rounds_computed() == []


def test_a_killed_run_continues_and_ends_with_the_same_numbers(smoke: Outcome, tmp_path: Path) -> None:
    """After kill -9 inside a round only what is missing is computed, and nothing else comes out."""
    command = ("run", "workflows/gdsd.py", "train", "--config", SMOKE)
    killed = run_in_process(*command, home=tmp_path, said=lambda line: " round 1 of 2: " in line)
    assert killed.code == -signal.SIGKILL
    resumed = run_in_process(*command, home=tmp_path)
    assert resumed.code == 0, resumed.text
    assert os.listdir(tmp_path / "tmp") == [], "something of the two runs is left in the temporary folder"
    assert "base policy" not in resumed.text and resumed.rounds_computed() in ([2], [1, 2])
    assert resumed.numbers() == smoke.numbers()


def test_vanished_data_is_computed_again(smoke: Outcome, pyflyte: Pyflyte, home: Path, tmp_path: Path) -> None:
    """Cleaning up the data folder must cost time, not the run."""
    copy = tmp_path / "home"
    shutil.copytree(home, copy)
    first = pyflyte("run", "workflows/gdsd.py", "train", "--config", SMOKE, home=copy)
    # The copied cache still points to the original's data; drop all of it and see it come back in the copy.
    assert first.code == 0, first.text
    shutil.rmtree(copy / ".flyte/gdsd")
    hidden = home / ".flyte/gdsd"
    moved = hidden.rename(hidden.with_name("gdsd-hidden"))
    try:
        again = pyflyte("run", "workflows/gdsd.py", "train", "--config", SMOKE, home=copy)
    finally:
        moved.rename(hidden)
    assert again.code == 0, again.text
    assert "is gone" in again.text and again.rounds_computed() == [1, 2]
    assert again.numbers() == smoke.numbers()


def test_evaluate_measures_a_published_policy(smoke: Outcome, pyflyte: Pyflyte, home: Path, tmp_path: Path) -> None:
    """A policy can be evaluated without its run, from any directory, under the same protocol."""
    size = yaml.safe_load(SMOKE.read_text())["prompts"]["test_size"]
    config = json.dumps({"prompts": {"test_size": size}})
    workflow, policy = ROOT / "workflows/gdsd.py", smoke.folder() / "policy"
    outcome = pyflyte("run", workflow, "evaluate", "--policy", policy, "--config", config, home=home, cwd=tmp_path)
    assert outcome.code == 0, outcome.text
    solved = next(line for line in outcome.text.splitlines() if line.startswith("solved"))
    trained = next(line for line in smoke.text.splitlines() if line.startswith("trained"))
    assert trained.removeprefix("trained").split("solved")[0].strip() in solved


def test_a_folder_that_is_no_policy_is_refused(pyflyte_here: Pyflyte, tmp_path: Path) -> None:
    """The message names the folder and what it lacks, and no way through the code pushes it off the screen."""
    (tmp_path / "my policy").mkdir()
    config = json.dumps({"prompts": {"test_size": 1}})
    arguments = ("--policy", tmp_path / "my policy", "--config", config)
    outcome = pyflyte_here("run", "workflows/gdsd.py", "evaluate", *arguments)
    text = " ".join(outcome.text.replace("\u2502", " ").split())
    assert outcome.code != 0 and "is not a checkpoint" in text and "gdsd.json" in text
    assert "CheckpointError in answer_problems" in text and len(outcome.text.splitlines()) < 12


def test_the_default_is_the_shipped_config() -> None:
    """`train` without --config and with configs/tiny_sudoku.yaml are one experiment."""
    shipped = yaml.safe_load((ROOT / "configs/tiny_sudoku.yaml").read_text())
    _, default = gdsd.train.python_interface.inputs_with_defaults["config"]
    assert TrainConfig.model_validate_json(json.dumps(shipped)) == default


@pytest.mark.parametrize("config", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_config_is_valid(config: Path) -> None:
    """A recipe that does not load is worse than none."""
    written = yaml.safe_load(config.read_text())
    model = CompareConfig if "contestants" in written else TrainConfig
    model.model_validate_json(json.dumps(written))


def test_everything_registers_without_a_cluster(tmp_path: Path) -> None:
    """The offline gate before a real registration."""
    outcome = run_in_process(
        *("register", "--dry-run", "--copy", "none", "--version", "v1", "-p", "p", "-d", "d", "workflows"),
        home=tmp_path,
    )
    assert outcome.code == 0, outcome.text
    assert "workflows.gdsd.train" in outcome.text and "workflows.gdsd.evaluate" in outcome.text
    assert "workflows.gdsd.compare" in outcome.text
    assert "workflows.retrain.retrain" in outcome.text


@pytest.mark.parametrize(
    ("file", "workflows"),
    [("gdsd", ["train", "evaluate", "compare"]), ("retrain", ["retrain", "evaluate_champion"])],
)
def test_help_lists_the_workflows(file: str, workflows: list[str], pyflyte: Pyflyte, tmp_path: Path) -> None:
    """pyflyte refuses to list a file in which any task has an input that it cannot explain, such as an error."""
    outcome = pyflyte("run", f"workflows/{file}.py", "--help", home=tmp_path)
    assert outcome.code == 0, outcome.text
    assert all(name in outcome.text for name in workflows)


def test_help_explains_the_inputs(tmp_path: Path) -> None:
    """The first thing a newcomer types; it once was 1,700 lines, of which no terminal keeps the first."""
    outcome = run_in_process("run", "workflows/gdsd.py", "train", "--help", home=tmp_path)
    words = " ".join(outcome.text.replace("\u2502", " ").split())
    assert outcome.code == 0 and "the experiment, as a YAML or JSON file" in words and "docs/fields.md" in words
    assert "The problems of a run: generated from a seed, or read from files" in words
    assert len(outcome.text.splitlines()) < 90
