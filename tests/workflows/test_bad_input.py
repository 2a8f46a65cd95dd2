"""Bad input through the command line: refused before any training, with a message that says what, where and why."""

import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from flytekit.core.data_persistence import flyte_tmp_dir

from tasks.gdsd.config.prompts import PromptConfig
from tasks.gdsd.modules import own
from tasks.gdsd.prompts.problems import make_prompts
from tests.workflows.conftest import ROOT, SMOKE, Pyflyte, run_in_process


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ('{"ronds": 3}', ["ronds", "did you mean 'rounds'"]),
        ('{"rounds": "many"}', ["rounds", "'many'", "integer", ">= 1"]),
        ('{"rounds": 0}', ["rounds", "got 0", ">= 1 and <= 1000000"]),
        ('{"rollout": {"group_size": 1}}', ["rollout.group_size", "got 1", ">= 2"]),
        ('{"rollout": {"sampler": {"length": 15, "block_length": 4}}}', ["rollout.sampler", "15", "multiple", "16"]),
        ('{"distill": {"objective": {"guidence": 1}}}', ["distill.objective.guidence", "did you mean 'guidance'"]),
        ("nowhere.yaml", ["no such file: 'nowhere.yaml' in"]),
        ('{"prompts": {"train_data": {"path": "nowhere.parquet"}}}', ["no such file:", "nowhere.parquet"]),
    ],
)
def test_a_bad_config_is_refused_at_once(change: str, words: list[str], pyflyte: Pyflyte, tmp_path: Path) -> None:
    """A typo must not run the defaults, and a wrong number must not fail an hour later."""
    outcome = pyflyte("run", "workflows/gdsd.py", "train", "--config", change, home=tmp_path)
    assert outcome.code != 0 and "ConfigError" in outcome.words() and "Traceback" not in outcome.text
    assert all(word in outcome.words() for word in words), outcome.text
    assert not (tmp_path / ".flyte/gdsd").exists()


@pytest.mark.parametrize(
    ("arguments", "content", "said"),
    [
        (
            ["--config", "config.yaml"],
            "distill: {objective: {name: espo}}\nrounds: 1\ndistill: {inner_steps: 2}\n",
            "ConfigError: config.yaml, line 3: the key 'distill' stands in line 1 too",
        ),
        (
            ["--inputs-file", "config.yaml"],
            "config:\n  rounds: 1\n  rounds: 2\n",
            "--inputs-file, line 3: the key 'rounds'",
        ),
        (["--inputs-file", "config.yaml"], '{\n\t"config": {"rounds": 0}\n}', "TrainConfig refused: rounds: got 0;"),
        (["--config", '{"rounds": 1, "rounds": 2}'], "", "RepeatedKeyError: the key 'rounds' stands twice"),
        (
            ["--inputs-file", "config.yaml"],
            "config: {distill: {learning_rate: 1e-4, inner_steps: 0}}\n",
            "ConfigError: TrainConfig refused: distill.inner_steps: got 0;",
        ),
    ],
)
def test_a_config_has_one_reading(arguments: list[str], content: str, said: str, tmp_path: Path) -> None:
    """flytekit alone takes the last of equal keys, and 1e-4 for a text: another experiment runs, or a right one not.

    In a process of its own, because it depends on what is imported before what.
    """
    (tmp_path / "config.yaml").write_text(content)
    outcome = run_in_process("run", ROOT / "workflows/gdsd.py", "train", *arguments, home=tmp_path, cwd=tmp_path)
    assert outcome.code != 0 and said in outcome.words() and "Traceback" not in outcome.text, outcome.text
    assert not (tmp_path / ".flyte/gdsd").exists()


def rows(count: int) -> list[dict[str, object]]:
    """Good training problems as a person would write them: id, prompt, reference."""
    table = make_prompts(PromptConfig(seed=5, train_size=count, validation_size=1, test_size=1))["train"]
    return [{"id": row["id"], "prompt": row["problem"], "reference": row["reference"]} for row in table.to_pylist()]


def duplicate_id(table: list[dict[str, object]]) -> None:
    table[3]["id"] = table[1]["id"]


def empty_prompt(table: list[dict[str, object]]) -> None:
    table[2]["prompt"] = ""


def leaked(table: list[dict[str, object]]) -> None:
    prompts = yaml.safe_load(SMOKE.read_text())["prompts"]
    test = make_prompts(PromptConfig(**prompts))["test"].to_pylist()[0]
    table[4] |= {"prompt": test["problem"], "reference": test["reference"]}


def wrong_type(table: list[dict[str, object]]) -> None:
    for index, row in enumerate(table):
        row["id"] = index


def wrong_solution(table: list[dict[str, object]]) -> None:
    last = int(str(table[0]["reference"])[-1])
    table[0]["prompt"] = "." * 15 + str(last % 4 + 1)


def spoiled(spoil: Callable[[list[dict[str, object]]], None], folder: Path) -> str:
    """The smoke config on a file of training problems with a fault."""
    table = rows(20)
    spoil(table)
    pq.write_table(pa.Table.from_pylist(table), folder / "train.parquet")
    config = yaml.safe_load(SMOKE.read_text())
    config["prompts"]["train_data"] = {"path": str(folder / "train.parquet")}
    return json.dumps(config)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (empty_prompt, ["train.p", "1 of 20", "train-000002"]),
        (leaked, ["problem", "1 of", "test"]),
        (wrong_type, ["type", "id", "20 of 20"]),
        (wrong_solution, ["1 of 20", "is solved by"]),
    ],
)
def test_a_bad_prompt_file_stops_the_pipeline_before_training(
    spoil: Callable[[list[dict[str, object]]], None], words: list[str], pyflyte_here: Pyflyte, tmp_path: Path
) -> None:
    """Data faults found after the training cost the training."""
    outcome = pyflyte_here("run", "workflows/gdsd.py", "train", "--config", spoiled(spoil, tmp_path))
    text = " ".join(outcome.text.split())
    assert outcome.code != 0 and not list((tmp_path / "data").glob("policy-*"))
    assert all(word in text for word in words), outcome.text


def test_the_deck_of_bad_prompts_shows_what_is_bad(pyflyte_here: Pyflyte, tmp_path: Path) -> None:
    """Who looks at a failed task in the console finds the report of the data checks there."""
    config = spoiled(duplicate_id, tmp_path)
    outcome = pyflyte_here("run", "workflows/gdsd.py", "train", "--config", config)
    text = " ".join(outcome.text.split())
    assert outcome.code != 0 and "base policy" not in text
    words = ["have what another row has too", "train.id", "2 of 20", "train-000001"]
    assert all(word in text for word in words), outcome.text
    decks = [path.read_text() for path in Path(flyte_tmp_dir).rglob("deck.html")]
    assert any(words[0] in deck and "train-000001" in deck for deck in decks)


def test_a_corrected_reward_or_file_goes_on_by_the_command_of_the_failure(
    pyflyte_here: Pyflyte, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, what people pin by no word of theirs keeps them from going on after their own mistake."""
    monkeypatch.setattr(own, "_folders", [])
    monkeypatch.setattr(own, "_configuration", None)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # an edit within a second keeps the time of the file
    monkeypatch.setattr(sys, "path", [*sys.path])
    home = tmp_path / "my task"
    home.mkdir()
    monkeypatch.chdir(home)
    reward, *_ = re.findall("^```python\n(.*?)^```$", (ROOT / "docs/domains/custom.md").read_text(), re.DOTALL | re.M)
    domain = {"name": "custom", "path": "sorting_reward:Sorting"}
    prompts = {"domain": domain, "test_data": {"path": "test.jsonl"}}
    Path("config.yaml").write_text(yaml.safe_dump({"prompts": prompts}))
    Path("test.jsonl").write_text('{"number": "31"}\n')
    Path("sorting_reward.py").write_text(reward)
    # An address that no registry has fails at once, and late enough.
    where = ("--registry", "http://a b", "--kickoff_time", "2026-11-24T02:00:00", "--config", "config.yaml")
    began = pyflyte_here("run", ROOT / "workflows/retrain.py", "evaluate_champion", *where)
    assert began.code != 0 and "two writers at once" in began.words(), began.text
    (kept,) = (tmp_path / "data").glob("failed-*/failure.json")
    words = shlex.split(json.loads(kept.read_text())["go_on"])
    assert words[:3] == ["cd", str(home), "&&"]
    Path("sorting_reward.py").write_text(reward.replace("right / len", "right**2 / len"))
    Path("test.jsonl").write_text('{"number": "21"}\n')
    again = pyflyte_here(*words[4:])
    assert again.code != 0 and "two writers at once" in again.words(), again.text


@pytest.mark.whole
def test_a_good_prompt_file_trains_and_an_edited_one_is_not_served_from_the_cache(
    pyflyte: Pyflyte, tmp_path: Path
) -> None:
    """The file is pinned by content: the same path with other problems is another experiment.

    It lies beside the configuration, and neither where the command is typed.
    """
    config = yaml.safe_load(SMOKE.read_text()) | {"rounds": 1}
    config["prompts"]["train_data"] = {"path": "train.jsonl"}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    numbers = []
    for count in (20, 30):
        (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(count)))
        outcome = pyflyte("run", "workflows/gdsd.py", "train", "--config", file, home=tmp_path / "home")
        assert outcome.code == 0, outcome.text
        assert f"prompts: {count} to train" in outcome.text
        numbers.append(outcome.numbers())
    assert numbers[0] != numbers[1]
