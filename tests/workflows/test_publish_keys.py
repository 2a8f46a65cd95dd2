"""The keys of trackers and of the hub: where they come from, and what is said of one that is not there or is none."""

from pathlib import Path

import huggingface_hub.constants
import pytest
from flytekit.types.directory import FlyteDirectory

from tasks import publish as stage
from tasks.flyte import commands
from tests.gdsd.fake_hub import FakeHub, use
from tests.gdsd.publish.test_hub import run_folder
from tests.workflows.conftest import Pyflyte
from tests.workflows.test_publish import publish
from tests.workflows.test_retrain import CONFIG


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was made up."""
    return run_folder(tmp_path_factory.mktemp("runs") / "run")


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"hub": {"repo": "org/policy"}}, "needs a token, and there is none; set HF_TOKEN"),
        ({"trackers": [{"name": "wandb", "project": "p"}]}, "WANDB_API_KEY is not set"),
        ({"trackers": [{"name": "mlflow", "uri": "https://h", "token": True}]}, "MLFLOW_TRACKING_TOKEN is not set"),
    ],
)
def test_a_missing_key_is_refused_before_anything_is_made(
    told: dict[str, object], words: str, pyflyte_here: Pyflyte, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, a run of a day ends with nothing published for want of a variable, or a screen of code says so."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    config = CONFIG.model_copy(update={"publish": publish(**told)}).model_dump_json()
    outcome = pyflyte_here("run", "workflows/gdsd.py", "train", "--config", config)
    assert outcome.code == 1 and words in outcome.words()
    assert len(outcome.text.splitlines()) < 10 and "Traceback" not in outcome.text
    assert not list((tmp_path / "data").glob("prompts*"))


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ({"trackers": [{"name": "mlflow", "uri": "http://127.0.0.1:9", "token": True}]}, "MLFLOW_TRACKING_TOKEN"),
        ({"trackers": [{"name": "mlflow", "uri": "http://127.0.0.1:9"}]}, "MLFLOW_TRACKING_TOKEN"),
        ({"trackers": [{"name": "wandb", "project": "p"}]}, "WANDB_API_KEY"),
        ({"hub": {"repo": "org/policy", "when": "always"}}, "HF_TOKEN"),
    ],
)
def test_what_is_no_key_is_not_shown(
    made: Path, told: dict[str, object], name: str, pyflyte_here: Pyflyte, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, a key that was copied with a line too many is on the screen, in logs and in results."""
    monkeypatch.setenv(name, "very-secret\u2028secret")
    command = ("run", "workflows/publish.py", "publish", "--folder", made)
    outcome = pyflyte_here(*command, "--publish", publish(**told).model_dump_json())
    assert outcome.code == 1 and f"{name} has a blank" in outcome.words(), outcome.text
    assert "secret" not in outcome.text and "another attempt" not in outcome.text


def test_the_login_of_weights_and_biases_is_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, who has logged in by `wandb login` is asked for a key again."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password key\n")
    (tmp_path / ".netrc").chmod(0o600)
    stage.require_publishing(publish(trackers=[{"name": "wandb", "project": "p"}]))


def test_a_pod_takes_its_token_from_the_secret_alone(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a cluster cannot push, or does so with a key that happens to lie about."""
    for module in (stage, commands):
        monkeypatch.setattr(module, "in_pod", lambda: True)
    given = {"run": FlyteDirectory(str(made)), "folder": "s3://run", "publish": publish(hub={"repo": "org/pod"})}
    found = stage.push_policy.task_function(**given)
    assert found.address is None and "no secret 'hf_token' in the group 'gdsd'" in str(found.problem)
    assert "--remote" in str(found.repeat) and "s3://run" in str(found.repeat)
    monkeypatch.setenv("_FSEC_GDSD_HF_TOKEN", "hf_of_the_cluster")
    with FakeHub() as hub:
        use(monkeypatch, hub)
        assert stage.push_policy.task_function(**given).problem is None
    assert {key for path, key in hub.asked if "org/pod" in path and "/api/" in path} == {"Bearer hf_of_the_cluster"}
