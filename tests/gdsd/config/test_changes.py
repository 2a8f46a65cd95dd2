"""Fields that a command changes: what comes out is a file in which they have been edited."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.gdsd.config import changes, loading
from tasks.gdsd.config.compare import CompareConfig
from tasks.gdsd.config.evaluate import EvaluateConfig
from tasks.gdsd.config.prompts import PromptFile
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.errors import ConfigError
from tasks.gdsd.strict import StrictJson

SUM = "0" * 64
HUB = {"hub": "org/name", "revision": "0" * 40}
# a configuration, what is changed, and the configuration that comes out
CHANGED: list[tuple[type[StrictJson], object, list[str], object]] = [
    (TrainConfig, {}, ["rollout.group_size=8"], {"rollout": {"group_size": 8}}),
    (TrainConfig, {"seed": 3}, [" seed = 4", "rounds=1e1"], {"seed": 4, "rounds": 10}),
    (TrainConfig, {}, ["name='010'"], {"name": "010"}),
    (TrainConfig, {"patience": 3}, ["patience=null"], {}),
    (TrainConfig, {}, ["distill.objective.readout=centred"], {"distill": {"objective": {"readout": "centred"}}}),
    (TrainConfig, {"policy": {"adapter": None}}, ["policy.adapter.rank=8"], {"policy": {"adapter": {"rank": 8}}}),
    (
        TrainConfig,
        {},
        [f"policy.model={json.dumps(HUB)}", "policy.adapter={}"],
        {"policy": {"model": HUB, "adapter": {}}},
    ),
    # A kind begins with its own defaults, unless it is the one that was there.
    (
        TrainConfig,
        {"prompts": {"domain": {"max_empty": 5}, "seed": 3}},
        ["prompts.domain.name=countdown", "prompts.domain.max_numbers=5"],
        {"prompts": {"domain": {"name": "countdown", "max_numbers": 5}, "seed": 3}},
    ),
    (
        TrainConfig,
        {"prompts": {"domain": {"max_empty": 5}}},
        ["prompts.domain.name=sudoku"],
        {"prompts": {"domain": {"max_empty": 5}}},
    ),
    (TrainConfig, {"seed": 3}, ["name=other"], {"seed": 3, "name": "other"}),
    # The order of the changes does not matter.
    (
        TrainConfig,
        {"prompts": {"domain": {"max_empty": 5}}},
        ["prompts.domain.min_numbers=2", "prompts.domain.name=countdown"],
        {"prompts": {"domain": {"name": "countdown", "min_numbers": 2}}},
    ),
    (
        TrainConfig,
        {},
        ["rollout.group_size=8", "rollout={prompts_per_round: 8, group_size: 4}"],
        {"rollout": {"prompts_per_round": 8, "group_size": 8}},
    ),
    # Lists, by places.
    (
        TrainConfig,
        {"evaluation": {"samples": 4, "sampler": {"temperature": 1}, "pass_at": [1, 2]}},
        ["evaluation.pass_at.1=4"],
        {"evaluation": {"samples": 4, "sampler": {"temperature": 1}, "pass_at": [1, 4]}},
    ),
    (CompareConfig, {}, ["seeds.0=9"], {"seeds": [9, 1, 2, 3, 4]}),
    (CompareConfig, {}, ["tuning.seeds=[7, 8]"], {"tuning": {"seeds": [7, 8]}}),
    # What the file leaves out stays what it is without the file's section: here another Sudoku, and six objectives.
    (
        CompareConfig,
        {},
        ["prompts.test_size=64"],
        {"prompts": {"domain": {"min_empty": 3, "max_empty": 5}, "test_size": 64}},
    ),
    (
        CompareConfig,
        {},
        ["contestants.espo.learning_rate=1e-4"],
        {
            "contestants": json.loads(CompareConfig().model_dump_json())["contestants"]
            | {
                "espo": {
                    "objective": {"name": "espo", "mask_pairs": 1, "share_masks": True},
                    "learning_rate": 1e-4,
                    "ema_decay": 0,
                    "max_skipped": 1000,
                }
            }
        },
    ),
    # A name of one's own is no field.
    (
        TrainConfig,
        {},
        ["judge.guards.domain.domain.name=countdown", "judge.guards.domain.test_size=9"],
        {"judge": {"guards": {"domain": {"domain": {"name": "countdown"}, "test_size": 9}}}},
    ),
]


@pytest.mark.parametrize(("model", "before", "changed", "after"), CHANGED, ids=lambda value: str(value)[:40])
def test_a_changed_field(model: type[StrictJson], before: object, changed: list[str], after: object) -> None:
    """If it fails, `--set` runs another experiment than the file with this field."""
    assert loading.given(model, json.dumps(before), changed) == model.model_validate_json(json.dumps(after))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ("rollout.group_sise=8", "rollout.group_sise: unknown key; did you mean 'group_size'?"),
        ("group_size=8", "group_size: unknown key; did you mean 'rollout.group_size'?"),
        ("rollout.group_size='8'", "rollout.group_size: got '8'; it should be a whole number"),
        ("rollout.group_size=1", "rollout.group_size: got 1;"),
        ("rollout.shards=1000", "rollout.shards: got 1000;"),
        ("rollout.group_size=yes", "--set rollout.group_size, line 1: `yes` is a truth value to some programs"),
        ("rollout={group_size: 8, group_size: 9}", "the key 'group_size' stands in line 1 too"),
        ("name=[", "--set name, line 1: "),
        ("name=a\nseed: 3", "--set name, line 2: "),
        ("name=${RUN}", "--set: name has '${RUN}', which nothing fills in"),
        ("rollout.group_size", "--set 'rollout.group_size': write the path of a field, '=' and its value"),
        ("rollout..group_size=8", "write the path of a field"),
        ("=8", "write the path of a field"),
        ("patience=", "there is no value; write null for none"),
        ("rollout.group_size.x=3", "--set: rollout.group_size is 4, which has no fields"),
        ("evaluation.pass_at.1=3", "--set: evaluation.pass_at is a list of 1, and has no '1'"),
        ("evaluation.pass_at.-1=3", "has no '-1'"),
        ("evaluation.pass_at.\u0661=3", "has no '\u0661'"),
        ("prompts.domain.name=none", "prompts.domain.name: got 'none'; "),
    ],
)
def test_a_change_is_refused_as_a_file_would_be(changed: str, said: str) -> None:
    """If it fails, a mistyped change runs the default, or ends in an error of the code."""
    with pytest.raises(ConfigError) as caught:
        loading.given(TrainConfig, "{}", [changed])
    assert said in str(caught.value)


def test_a_field_is_changed_once() -> None:
    """If it fails, of two values of a field one is silently dropped."""
    with pytest.raises(ConfigError, match="--set: seed is set twice"):
        loading.given(TrainConfig, "{}", ["seed=1", "rounds=3", "seed=2"])


def test_paths_of_a_change_are_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, a path that the shell has completed is looked for elsewhere."""
    (tmp_path / "configs").mkdir()
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "configs/config.yaml"
    source = f"{{path: data.csv, sha256: '{SUM}'}}"
    (tmp_path / "other.csv").write_text("id,prompt\n")
    file.write_text(f"prompts: {{test_data: {source}}}\njudge: {{guards: {{other: {{test_data: {source}}}}}}}\n")
    changed = [
        f"prompts.train_data={source}",
        "prompts.test_data.path=other.csv",
        "prompts.validation_data.path=s3://bucket/a.csv",
        f"prompts.validation_data.sha256='{SUM}'",
        "publish.trackers=[{name: tensorboard, folder: events}, {name: mlflow, uri: 'sqlite:///runs.db'}]",
    ]
    found = loading.load(TrainConfig, "configs/config.yaml", changed)
    paths = {name: source.path for name, source in found.prompts if name.endswith("_data")}
    assert paths == {
        "train_data": f"{tmp_path}/data.csv",
        "test_data": f"{tmp_path}/other.csv",
        "validation_data": "s3://bucket/a.csv",
    }
    guard = found.judge.guards["other"].test_data
    assert guard is not None and guard.path == f"{tmp_path}/configs/data.csv"
    events, database = json.loads(found.publish.model_dump_json())["trackers"]
    assert events["folder"] == f"{tmp_path}/events" and database["uri"] == f"sqlite:///{tmp_path}/runs.db"


def test_what_pins_another_path_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a stored configuration runs on no other data, model or reward, or on one that is not pinned."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text(f"number\n{name}\n")
        (tmp_path / f"model_{name}").mkdir()
        (tmp_path / f"model_{name}/config.json").write_text(f'"{name}"')
    monkeypatch.chdir(tmp_path)
    paths = {"prompts.test_data.path": "{}.csv", "prompts.train_data.path": "{}.csv", "policy.model.path": "model_{}"}

    def set_to(name: str) -> list[str]:
        return [f"{field}={path.format(name)}" for field, path in paths.items()]

    stored = loading.given(TrainConfig, "{}", set_to("a")).model_dump_json()
    assert loading.given(TrainConfig, stored, set_to("b")) == loading.given(TrainConfig, "{}", set_to("b"))
    # What is as it was keeps its pin, and so does what is given one.
    (tmp_path / "a.csv").write_text("edited")
    assert loading.given(TrainConfig, stored, set_to("a")).model_dump_json() == stored
    pinned = [f"prompts.test_data.sha256='{SUM}'", "prompts.test_data.path=nowhere.csv"]
    (source, *_) = loading.given(TrainConfig, stored, pinned).prompts.sources[::-1]
    assert isinstance(source, PromptFile) and source.sha256 == SUM
    domain = {"name": "custom", "path": "a:A", "folder": "/nowhere", "sha256": SUM, "options": {"folder": "x"}}
    given = json.dumps({"prompts": {"domain": domain}})
    changed = ["prompts.domain.options.path=y", "prompts.domain.path=b:B"]
    found = json.loads(changes.apply(TrainConfig, given, changed))["prompts"]["domain"]
    assert found == {"name": "custom", "path": "b:B", "options": {"folder": "x", "path": "y"}}


def leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Every value of nested mappings that is none itself, by its path."""
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from leaves(item, f"{path}.{name}".lstrip("."))
    else:
        yield path, value


@pytest.mark.parametrize("model", [TrainConfig, CompareConfig, EvaluateConfig])
def test_each_field_may_be_set_to_what_it_is(model: type[StrictJson]) -> None:
    """If it fails, a change of one field changes another one too, or some section cannot be changed."""
    default = model()
    for path, value in leaves(json.loads(default.model_dump_json())):
        assert loading.given(model, "{}", [f"{path}={json.dumps(value)}"]) == default, path
