"""What happens to a run beyond its folder: trackers and the hub as a user configures them, in this process.

The hub is a server on this machine; TensorBoard writes into a folder.
"""

import json
import os
import shlex
from collections import OrderedDict
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import huggingface_hub.constants
import pytest
from flyteidl.core.dynamic_job_pb2 import DynamicJobSpec
from flytekit.exceptions.user import FlyteUserRuntimeException
from flytekit.tools.translator import get_serializable
from flytekit.types.directory import FlyteDirectory

from tasks import publish as stage
from tasks.gdsd.config.publish import PublishConfig
from tasks.gdsd.errors import ConfigError, PublishError
from tasks.gdsd.run.run_record import RunRecord
from tests.gdsd.fake_hub import TOKEN, FakeHub, use
from tests.workflows.conftest import Pyflyte, quick_runs
from tests.workflows.test_compiled import CPU, SETTINGS, unroll
from tests.workflows.test_retrain import CONFIG

# task: the secret that it asks for
TASKS = {
    "track_run": [],
    "track_in_wandb": ["wandb_api_key"],
    "track_in_mlflow": ["mlflow_tracking_token"],
    "push_policy": ["hf_token"],
}


def publish(**values: object) -> PublishConfig:
    return PublishConfig.model_validate_json(json.dumps(values))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, FakeHub, Path]]:
    """A run of `train` that is told to TensorBoard and pushed whatever the gate says: its folder, hub and events."""
    from workflows.gdsd import train

    events = tmp_path_factory.mktemp("events")
    told = publish(
        trackers=[{"name": "tensorboard", "folder": str(events)}], hub={"repo": "org/policy", "when": "always"}
    )
    with FakeHub() as hub, quick_runs(tmp_path_factory.mktemp("data")) as patch:
        patch.setenv("HF_TOKEN", TOKEN)
        use(patch, hub)
        result = train(config=CONFIG.model_copy(update={"publish": told}))
        assert not result.record.decision.promoted
        yield Path(os.fspath(result.folder)), hub, events


def test_a_run_is_told_of_and_pushed_at_its_end(run: tuple[Path, FakeHub, Path]) -> None:
    """If it fails, what was configured does not happen, and nobody is told."""
    folder, hub, events = run
    assert [path.name.startswith("nightly-") for path in events.iterdir()] == [True]
    files = hub.files["org/policy"]
    assert files["README.md"] == (folder / "README.md").read_bytes() and b"# nightly" in files["README.md"]
    assert files["model.safetensors"] == (folder / "policy/model.safetensors").read_bytes()
    assert not {"samples.parquet", "report.html"} & {*files}
    kept = [path for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in kept if TOKEN.encode() in path.read_bytes()]


def test_only_a_promoted_policy_is_pushed_unless_it_is_said_otherwise(run: tuple[Path, FakeHub, Path]) -> None:
    """If it fails, a policy that is no better than what is served takes its place on the hub."""
    from workflows.publish import publish as publish_run

    folder, hub, _ = run
    before = len(hub.asked)
    assert publish_run(folder=FlyteDirectory(str(folder)), publish=publish(hub={"repo": "org/policy"})) == []
    assert len(hub.asked) == before


def test_a_failure_leaves_the_run_and_says_how_to_publish_it(
    run: tuple[Path, FakeHub, Path], tmp_path: Path, pyflyte_here: Pyflyte, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, an outage at the end of a run costs the run, or what else was to be told of it."""
    from workflows.publish import publish as publish_run

    folder, hub, _ = run
    hub.failures["/api/repos/create"] = [403]
    told = publish(
        hub={"repo": "org/new", "when": "always"},
        trackers=[{"name": "tensorboard", "folder": str(tmp_path / "it's here")}],
    )
    with pytest.raises(PublishError, match="does not let this token write to org/new") as found:
        publish_run(folder=FlyteDirectory(str(folder)), publish=told)
    assert (tmp_path / "it's here").is_dir() and "org/new" not in hub.files
    said = str(found.value)
    assert f"The run is kept in {folder}" in said and TOKEN not in said
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    command = shlex.split(said.splitlines()[-1])
    assert command[0] == "pyflyte"
    outcome = pyflyte_here(*command[1:])
    assert outcome.code == 0, outcome.text
    assert "model.safetensors" in hub.files["org/new"] and f"{hub.url}/org/new/commit/" in outcome.text


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"hub": {"repo": "org/policy"}}, "needs a token, and there is none; set HF_TOKEN"),
        ({"trackers": [{"name": "wandb", "project": "p"}]}, "WANDB_API_KEY is not set"),
        ({"trackers": [{"name": "mlflow", "uri": "https://h", "token": True}]}, "MLFLOW_TRACKING_TOKEN is not set"),
    ],
)
def test_a_missing_key_is_refused_before_anything_is_made(
    told: dict[str, object], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, a run of a day ends with nothing published for want of a variable."""
    from workflows.gdsd import train

    monkeypatch.setenv("GDSD_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=words):
        train(config=CONFIG.model_copy(update={"publish": publish(**told)}))
    assert not list((tmp_path / "data").glob("prompts*"))


def test_the_login_of_weights_and_biases_is_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, who has logged in by `wandb login` is asked for a key again."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password key\n")
    (tmp_path / ".netrc").chmod(0o600)
    stage.require_publishing(publish(trackers=[{"name": "wandb", "project": "p"}]))


def test_what_a_pod_would_take_with_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, metrics are written to a disk that vanishes a second later."""
    from workflows.gdsd import prepare

    for name in ("HF_TOKEN", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)

    def unrolled(**told: object) -> None:
        taken = ("prompts", "policy", "hardware", "rollout", "evaluation", "judge")
        unroll(prepare, {name: getattr(CONFIG, name) for name in taken} | {"publish": publish(**told)})

    for tracker in (
        {"name": "tensorboard", "folder": "runs"},
        {"name": "tensorboard", "folder": "file:///runs"},
        {"name": "wandb", "project": "p", "mode": "offline", "folder": "/runs"},
        {"name": "mlflow", "uri": "sqlite:////runs.db"},
    ):
        with pytest.raises(FlyteUserRuntimeException, match="lost with the pod"):
            unrolled(trackers=[tracker])
    # Whether the secrets are there only the tasks find out that ask for them.
    reached = [{"name": "tensorboard", "folder": "s3://runs"}, {"name": "wandb", "project": "p"}]
    unrolled(trackers=reached, hub={"repo": "org/policy"})


def test_a_pod_takes_its_token_from_the_secret_alone(
    run: tuple[Path, FakeHub, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, a cluster cannot push, or does so with a key that happens to lie about."""
    folder, hub, _ = run
    monkeypatch.setattr(stage, "in_pod", lambda: True)
    given = {"run": FlyteDirectory(str(folder)), "folder": "s3://run", "publish": publish(hub={"repo": "org/pod"})}
    with pytest.raises(PublishError, match=r"no secret 'hf_token' in the group 'gdsd'(.|\n)*--remote(.|\n)*s3://run"):
        stage.push_policy.task_function(**given)
    monkeypatch.setenv("_FSEC_GDSD_HF_TOKEN", "hf_of_the_cluster")
    stage.push_policy.task_function(**given)
    assert {key for path, key in hub.asked if "org/pod" in path and "/api/" in path} == {"Bearer hf_of_the_cluster"}


@pytest.mark.parametrize("name", TASKS)
def test_task_compiles_to_what_is_documented(name: str) -> None:
    """If it fails, a pod has no key, or one that it has no need of, or what fails is not tried again."""
    template = get_serializable(OrderedDict(), SETTINGS, getattr(stage, name)).to_flyte_idl().template
    assert [(secret.group, secret.key) for secret in template.security_context.secrets] == [
        ("gdsd", key) for key in TASKS[name]
    ]
    assert template.container.image == "gdsd:cpu"
    assert {entry.name for entry in template.container.resources.requests} == set(CPU)
    assert template.metadata.retries.retries == 3 and template.metadata.interruptible
    assert not template.metadata.discoverable
    assert template.metadata.timeout.ToTimedelta() == timedelta(hours=6 if name == "push_policy" else 1)


@pytest.mark.parametrize(
    ("told", "launched"),
    [
        ({}, []),
        ({"licence": "mit"}, []),
        ({"hub": {"repo": "org/policy"}}, []),
        ({"hub": {"repo": "org/policy", "when": "always"}}, ["push_policy"]),
        (
            {
                "trackers": [
                    {"name": "mlflow", "uri": "https://h", "token": True},
                    {"name": "mlflow", "uri": "https://h"},
                    {"name": "wandb", "project": "p"},
                    {"name": "wandb", "project": "p", "mode": "offline", "folder": "s3://runs"},
                ]
            },
            ["track_in_mlflow", "track_run", "track_in_wandb", "track_run"],
        ),
    ],
)
def test_only_what_is_configured_is_launched(
    told: dict[str, object], launched: list[str], run: tuple[Path, FakeHub, Path]
) -> None:
    """If it fails, a cluster without secrets cannot train, since Flyte starts no pod whose secret is not there."""
    from workflows.publish import publish as publish_run

    inputs = {"folder": FlyteDirectory(str(run[0])), "publish": publish(**told)}
    compiled = unroll(publish_run, inputs)
    nodes = compiled.nodes if isinstance(compiled, DynamicJobSpec) else []  # else there is nothing left to do
    assert [node.metadata.name.rpartition(".")[2] for node in nodes if node.HasField("task_node")] == launched


def test_a_policy_that_was_overtaken_is_not_pushed() -> None:
    """If it fails, retrain pushes before the registry has said yes."""
    from workflows.retrain import retrain

    nodes = {node.flyte_entity.name.rpartition(".")[2]: node for node in retrain.nodes}
    assert "promote" in {node.flyte_entity.name.rpartition(".")[2] for node in nodes["publish"].upstream_nodes}


def test_a_record_from_before_there_was_publishing_is_read(run: tuple[Path, FakeHub, Path]) -> None:
    """If it fails, an older run cannot be published."""
    written = json.loads((run[0] / "run.json").read_text())
    del written["config"]["publish"], written["policy"]["parent"]
    assert RunRecord.model_validate_json(json.dumps(written)).config.publish == PublishConfig()
