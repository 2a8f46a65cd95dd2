"""Configurations as a command is given them: a file or JSON, what paths are relative to, and no file at all."""

import json
from pathlib import Path

import pytest

from tasks.gdsd.config import loading
from tasks.gdsd.config.compare import CompareConfig
from tasks.gdsd.config.evaluate import EvaluateConfig
from tasks.gdsd.config.publish import PublishConfig
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.errors import ConfigError
from tasks.gdsd.files import absolute
from tasks.gdsd.strict import StrictJson

ROOT = Path(__file__).resolve().parents[3]
SUM = "0" * 64


def test_a_command_takes_a_file_or_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, `--config` takes only one of both."""
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text("rounds: 1e1")
    Path("a.json").write_text('\ufeff{"rounds": 3}', "utf-8")
    Path("{b}.yaml").write_text("rounds: 5")
    found = [loading.given(TrainConfig, text).rounds for text in ("a.yaml", "a.json", ' {"rounds": 4}', "{b}.yaml")]
    assert found == [10, 3, 4, 5]
    with pytest.raises(ConfigError, match=r"the configuration: name has '\$\{RUN\}', which nothing fills in"):
        loading.given(TrainConfig, '{"name": "${RUN}"}')
    with pytest.raises(ConfigError, match=r"'\{rounds: 3\}' is no JSON"):
        loading.given(TrainConfig, "{rounds: 3}")
    for text in ('{"rounds": 3, "rounds": 4}', '{"distill": {"inner_steps": 1, "inner_steps": 2}}'):
        with pytest.raises(ConfigError, match="stands twice in one mapping"):
            loading.given(TrainConfig, text)
        with pytest.raises(ConfigError, match="stands twice in one mapping"):
            TrainConfig.model_validate_json(text)


@pytest.mark.parametrize(
    ("kind", "file", "said"),
    [
        (
            EvaluateConfig,
            "smoke",
            "this is a configuration of train and retrain, since it has .*rounds.*; evaluate takes ",
        ),
        (CompareConfig, "smoke", "this is a configuration of train and retrain, since it has .*; compare takes "),
        (
            TrainConfig,
            "compare_tiny",
            "this is a configuration of compare, since it has .*contestants.*; train and ret",
        ),
    ],
)
def test_the_configuration_of_another_workflow_is_refused_in_a_sentence(
    kind: type[StrictJson], file: str, said: str
) -> None:
    """If it fails, who gives `evaluate` the file of `train` reads a list of unknown keys."""
    with pytest.raises(ConfigError, match=rf"^{said}[^\n]*$"):
        loading.load(kind, ROOT / f"configs/{file}.yaml")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere/a.yaml", "no such file: 'nowhere/a.yaml' in {}"),
        ("configs/tiny_sudoko.yaml", "in {}; did you mean 'configs/tiny_sudoku.yaml'?"),
        ("{}/configs/tiny_sudoko.yaml", "no such file: '{}/configs/tiny_sudoko.yaml'; did you mean '{}/configs/tiny_"),
        ("configs", "'configs' is a folder; name a file in it"),
        ("", "no such file: ''"),
        ("a\0b", "no such file: 'a\\x00b'"),
        ("[1, 2]", "no such file: '[1, 2]'"),
    ],
)
def test_a_file_that_is_not_there(name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a mistyped name ends in a message about JSON."""
    monkeypatch.chdir(tmp_path)
    Path("configs").mkdir()
    Path("configs/tiny_sudoku.yaml").touch()
    here = str(tmp_path)
    with pytest.raises(ConfigError) as caught:
        loading.given(TrainConfig, name.replace("{}", here))
    assert said.replace("{}", here) in str(caught.value)


# where a path is named: (what is written there, how a `{}` in it is written when it is read from the folder)
PLACES: dict[str, tuple[object, str]] = {
    "train_data": ({"prompts": {"train_data": {"path": "{}data.jsonl", "sha256": SUM}}}, "data.jsonl"),
    "test_data": ({"prompts": {"test_data": {"path": "{}../my data.csv", "sha256": SUM}}}, "../my data.csv"),
    "guard": ({"judge": {"guards": {"domain": {"test_data": {"path": "{}a.json", "sha256": SUM}}}}}, "a.json"),
    "model": ({"policy": {"model": {"path": "{}models/8B", "sha256": SUM}}}, "models/8B"),
    "events": ({"publish": {"trackers": [{"name": "tensorboard", "folder": "{}events"}]}}, "events"),
    "files": (
        {"publish": {"trackers": [{"name": "wandb", "project": "p", "mode": "offline", "folder": "{}runs"}]}},
        "runs",
    ),
    "database": ({"publish": {"trackers": [{"name": "mlflow", "uri": "sqlite:///{}runs.db"}]}}, "runs.db"),
}


@pytest.mark.parametrize("place", PLACES)
def test_paths_are_relative_to_the_file_that_names_them(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, a configuration works in one folder only, and so does the one that a run stores."""
    values, path = PLACES[place]
    text = json.dumps(values)
    (tmp_path / "my configs").mkdir()
    file, work = tmp_path / "my configs/config.yaml", tmp_path / "work"
    file.write_text(text.replace("{}", ""))
    work.mkdir()
    monkeypatch.chdir(work)
    expected = TrainConfig.model_validate_json(text.replace("{}", f"{file.parent}/"))
    for name in (file, "../my configs/config.yaml"):
        found = loading.given(TrainConfig, str(name))
        written = found.model_dump_json()
        assert str(file.parent / path) in written or f"{work}/{Path(name).parent}/{path}" in written
    assert loading.load(TrainConfig, file) == expected
    # Written, it is the same from everywhere.
    (tmp_path / "stored.json").write_text(expected.model_dump_json())
    assert loading.load(TrainConfig, tmp_path / "stored.json") == expected
    # What no file names is relative to the working directory, or to what the command says.
    assert str(work / path) in loading.given(TrainConfig, text.replace("{}", "")).model_dump_json()
    assert loading.given(TrainConfig, text.replace("{}", ""), folder=file.parent) == expected


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("a b.csv", "/data/a b.csv"),
        ("/a.csv", "/a.csv"),
        ("~/a.csv", "/home/ann/a.csv"),
        ("s3://bucket/a.csv", "s3://bucket/a.csv"),
        ("simplecache::s3://bucket/a.csv", "simplecache::s3://bucket/a.csv"),
        ("zip://a.csv::data.zip", "zip://a.csv::/data/data.zip"),
        ("file://a.csv", "file://a.csv"),
    ],
)
def test_an_address_stays_as_it_is(path: str, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a bucket is looked for in a folder, or an archive only in the working directory."""
    monkeypatch.setenv("HOME", "/home/ann")
    assert absolute(path, "/data") == found


def test_a_wrong_path_is_refused_by_its_field() -> None:
    """If it fails, a path that is no text, or empty, is an error of the code, or the folder itself."""
    for wrong in ('""', "3", "null"):
        with pytest.raises(ConfigError, match=r"trackers\.0\.folder: got "):
            PublishConfig.model_validate_json(f'{{"trackers": [{{"name": "tensorboard", "folder": {wrong}}}]}}')
