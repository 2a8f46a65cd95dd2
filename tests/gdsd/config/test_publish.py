"""What is refused of a configuration of trackers and the hub, and what of a run's settings they are not told."""

import json

import pytest

from tasks.gdsd.config.at_home import public
from tasks.gdsd.config.publish import PublishConfig
from tasks.gdsd.errors import ConfigError


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ({"trackers": [{"name": "wandb", "project": "p", "mode": "offline"}]}, "there is no folder for them"),
        ({"trackers": [{"name": "wandb", "project": "p", "folder": "x"}]}, "mode is 'online'"),
        ({"trackers": [{"name": "wandb", "project": "a/b"}]}, r"trackers\.0\.project"),
        ({"trackers": [{"name": "mlflow", "uri": "https://ann:key@host"}]}, "user or password"),
        ({"trackers": [{"name": "mlflow", "uri": "file:///x"}]}, r"trackers\.0\.uri"),
        ({"trackers": [{"name": "mlflow", "uri": "sqlite:///x", "token": True}]}, "uri is a file"),
        ({"trackers": [{"name": "tensorbord", "folder": "x"}]}, "did you mean 'tensorboard'"),
        ({"trackers": [{"name": "tensorboard", "folder": "x", "api_key": "1"}]}, "unknown key"),
        ({"trackers": [{"name": "tensorboard", "folder": "x"}] * 2}, "more than once"),
        ({"hub": {"repo": "name"}}, r"hub\.repo"),
        ({"hub": {"repo": "org/na--me"}}, "is no name that the hub takes"),
        ({"hub": {"repo": "org/name", "token": "hf_x"}}, "unknown key"),
        ({"licence": "Apache 2"}, "licence"),
        ({"pipeline": "https://ann:key@host/gdsd"}, "pipeline"),
        ({"pipeline": "https://host/$(id)"}, "pipeline"),
    ],
)
def test_a_wrong_configuration_is_refused_when_it_is_read(written: object, words: str) -> None:
    """If it fails, a run ends with nothing published, or a key is kept in every record of it."""
    with pytest.raises(ConfigError, match=words):
        PublishConfig.model_validate_json(json.dumps(written))


@pytest.mark.parametrize(
    "path",
    ["/home/ann/mine.jsonl", "s3://bucket/ann/mine.jsonl", "https://host/ann/mine.jsonl?signature=secret#part"],
)
def test_of_a_path_the_last_name_is_told(path: str) -> None:
    """If it fails, others learn where a team keeps its data, or get the key to it."""
    told = public(
        {"prompts": [{"train_data": {"path": path, "sha256": "0"}}], "publish": {"hub": {}, "licence": "mit"}}
    )
    assert told == {"prompts": [{"train_data": {"path": "mine.jsonl", "sha256": "0"}}], "publish": {"licence": "mit"}}


def test_of_a_reward_the_folder_is_not_told() -> None:
    """If it fails, a published configuration names the home of who made it, or its reward is not found elsewhere."""
    domain = {"name": "custom", "path": "my_package.sorting:Sorting", "folder": "/home/me/rewards", "sha256": "0"}
    assert public({"domain": domain}) == {"domain": {name: domain[name] for name in ("name", "path", "sha256")}}
