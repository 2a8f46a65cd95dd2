"""What a workflow gets from the words of a `pyflyte run`: configurations, and the fields that the command changes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from flytekit.clis.sdk_in_container import run
from flytekit.clis.sdk_in_container.pyflyte import main
from pydantic import BaseModel

from tests.workflows.conftest import ROOT, SMOKE, Outcome

Given = dict[str, object]
Get = Callable[..., Given | Outcome]


@pytest.fixture
def get(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Get:
    """Returns what a command would start its workflow with, or what it says instead."""
    got: list[Given] = []
    monkeypatch.setattr(run, "run_command", lambda context, entity: lambda **inputs: got.append(inputs))
    monkeypatch.chdir(tmp_path)

    def go(*words: str | Path) -> Given | Outcome:
        done = CliRunner().invoke(main, ["run", *map(str, words)])
        return got.pop() if done.exit_code == 0 else Outcome(done.exit_code, done.output)

    return go


def changed(given: Given | Outcome, name: str = "config") -> dict[str, object]:
    """The fields of a configuration that are not as they are by default."""
    assert not isinstance(given, Outcome), given.text
    model = given[name]
    assert isinstance(model, BaseModel)
    found: dict[str, object] = model.model_dump(exclude_defaults=True)
    return found


GDSD, RETRAIN = ROOT / "workflows/gdsd.py", ROOT / "workflows/retrain.py"


def test_a_command_changes_fields(get: Get, tmp_path: Path) -> None:
    """If it fails, one number costs a copy of the file, or `--set` is for some workflows and not for others."""
    train = changed(get(GDSD, "train", "--set", "rounds=7", "--set", "rollout.group_size=8"))
    assert train == {"rounds": 7, "rounds_per_task": 10, "rollout": {"group_size": 8}}
    smoke, longer = (changed(get(GDSD, "train", "--config", SMOKE, *more)) for more in ([], ["--set=rounds=7"]))
    assert longer == smoke | {"rounds": 7}
    assert changed(get(GDSD, "train", "--set", "seed=3", "--config", '{"rounds": 7}')) == {"rounds": 7, "seed": 3}
    assert changed(get(GDSD, "compare", "--set", "seeds=[1, 2]")) == {"seeds": [1, 2]}
    assert changed(get(GDSD, "evaluate", "--policy", tmp_path, "--set", "lengths=[32]")) == {"lengths": [32]}
    when = ("--registry", "x", "--kickoff_time", "now")
    assert changed(get(RETRAIN, "retrain", *when, "--config", "{}", "--set", "seed=3")) == {"seed": 3}


def test_a_missing_input_is_named(get: Get) -> None:
    """If it fails, who forgets one reads 65 lines of traceback."""
    when = ("--kickoff_time", "now")
    for words, missing in (
        ((GDSD, "evaluate"), "--policy"),
        ((RETRAIN, "retrain", *when), "--registry"),
        ((RETRAIN, "evaluate_champion", "--registry", "x"), "--kickoff_time"),
    ):
        found = get(*words)
        assert isinstance(found, Outcome) and f"Missing option '{missing}'" in found.words(), found
    assert changed(get(RETRAIN, "evaluate_champion", "--registry", "x", *when)) == {}, "it has a configuration"


def test_a_cluster_gets_the_changed_fields(get: Get) -> None:
    """If it fails, `--remote` runs the experiment without the change."""
    given = get("--remote", "-p", "p", "-d", "d", GDSD, "train", "--config", SMOKE, "--set", "rounds=7")
    assert not isinstance(given, Outcome), given.text
    from flytekit import FlyteContextManager
    from flytekit.core.type_engine import TypeEngine

    from tasks.gdsd.config.train import TrainConfig

    literal = given["config"]
    config = TypeEngine.to_python_value(FlyteContextManager.current_context(), literal, TrainConfig)
    assert config.rounds == 7 and config.name == "smoke"


def test_a_file_of_inputs(get: Get, tmp_path: Path) -> None:
    """If it fails, its paths are relative to where the command is typed, or it hides the changed field."""
    folder = tmp_path / "inputs"
    folder.mkdir()
    source = {"path": "data.csv", "sha256": "0" * 64}
    (folder / "inputs.yaml").write_text(json.dumps({"config": {"prompts": {"train_data": source}, "rounds": 5}}))
    for words in (["--inputs-file", "inputs/inputs.yaml"], ["--inputs-file=inputs/inputs.yaml"]):
        found = changed(get(GDSD, "train", *words, "--set", "seed=3"))
        data = {"train_data": source | {"path": str(folder / "data.csv")}}
        assert found == {"prompts": data, "rounds": 5, "seed": 3}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "--set", "ronds=3"], "ronds: unknown key; did you mean 'rounds'?"),
        (["train", "--set", "rounds"], "--set 'rounds': write the path of a field, '=' and its value"),
        (["train", "--inputs-file", "nowhere.yaml"], "ConfigError: no such file: 'nowhere.yaml' in "),
        (["train", "--config", "nowhere.yaml", "--set", "rounds=3"], "ConfigError: no such file: 'nowhere.yaml' in "),
        (
            ["describe", "--config", "mine.yaml"],
            "workflows.gdsd has no workflow 'describe'; it has check, compare, eval",
        ),
        # of several configurations none is meant
        (["prepare", "--set", "seed=3"], "No such option '--set'"),
    ],
)
def test_what_is_refused_is_said_in_a_line(words: list[str], said: str, get: Get) -> None:
    """If it fails, a slip in an option is a page of traceback, or is ignored."""
    found = get(GDSD, *words)
    assert isinstance(found, Outcome) and said in found.words() and "Traceback" not in found.text
