"""Pushing to the hub: by its own library, to a server on this machine."""

import hashlib
import json
import logging
import re
import runpy
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch

from tasks.gdsd import report, transient
from tasks.gdsd.config import written
from tasks.gdsd.config.model_source import OPTIMIZER, ModelFolder
from tasks.gdsd.config.policy import AdapterConfig, TinyModelConfig
from tasks.gdsd.config.publish import HubConfig, PublishConfig
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.denoiser import checkpoint, checkpoint_record, tiny
from tasks.gdsd.denoiser.load import load_source
from tasks.gdsd.errors import CheckpointError, PublishError, UnreachableError
from tasks.gdsd.files import SUMS
from tasks.gdsd.publish import hub
from tasks.gdsd.report import model_card
from tasks.gdsd.run.run_record import RunRecord
from tests.gdsd.checkpoints import CPU, trained, unseal
from tests.gdsd.fake_hub import TOKEN, FakeHub, use
from tests.gdsd.official import write_llada
from tests.gdsd.report.records import ORIGIN, pairs, record

CONFIG = HubConfig(repo="org/policy")
SMALL = TinyModelConfig(hidden_size=16, intermediate_size=16, layers=1, heads=2)


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub() as server:
        use(monkeypatch, server)
        yield server


def run_folder(folder: Path, adapter: bool = False, run: RunRecord | None = None, base: Path | None = None) -> Path:
    """What `report_run` leaves, of a run that was made up.

    Args:
        base: the folder of a published model that is the base; else there is a tiny one.
    """
    folder.mkdir()
    denoiser = tiny.build(SMALL, 0) if base is None else load_source(ModelFolder(path=str(base)), CPU)
    if adapter:
        denoiser.attach_adapter(AdapterConfig(rank=2), 0)
    checkpoint.save(folder / "policy", trained(denoiser) if base is None else checkpoint.base_state(denoiser))
    run = run or record()
    report.write(folder, run, pairs(), ORIGIN)
    card = model_card.write(run, checkpoint_record.read_record(folder / "policy"), ORIGIN)
    (folder / "README.md").write_text(card, "utf-8")
    return folder


def fetch(there: FakeHub, folder: Path, repo: str = "org/policy") -> Path:
    """What somebody gets who downloads a repository."""
    for name, content in there.files[repo].items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_folder(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of it, to change."""
    return shutil.copytree(made, tmp_path / "run")


def test_a_policy_on_the_hub_is_one_to_load(
    there: FakeHub, run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """If it fails, what was pushed is not the policy, has problems or answers beside it, or the token in it."""
    with caplog.at_level(logging.DEBUG):
        said = hub.push(run, CONFIG, TOKEN)
    files = there.files["org/policy"]
    assert {key for path, key in there.asked if "/api/repos" in path or "org/policy" in path} == {f"Bearer {TOKEN}"}
    assert {key for path, key in there.asked if path.startswith("PUT /large/")} == {None}
    assert said == f"{there.url}/org/policy/commit/{1:040x}" and there.private == {"org/policy": True}
    policy = {path.name for path in (run / "policy").iterdir()} - {OPTIMIZER}
    assert {*files} == policy | {".gitattributes", *checkpoint_record.BESIDE}
    fetched = checkpoint.load(fetch(there, tmp_path / "fetched"), CPU, moments=False).denoiser
    ours = checkpoint.load(run / "policy", CPU, moments=False).denoiser
    ids = torch.tensor([ours.encode("12.4=")])
    with torch.no_grad():
        assert torch.equal(fetched.head().logits(fetched(ids)), ours.head().logits(ours(ids)))
    assert b"# a-run" in files["README.md"] and there.commits[0].startswith("Policy after 3 rounds")
    assert TOKEN not in caplog.text and not any(TOKEN.encode() in content for content in files.values())
    assert not [path for path in run.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    hub.push(run, HubConfig(repo="org/open", private=False), TOKEN)
    assert there.private["org/open"] is False


def test_pushed_again_nothing_changes_and_another_policy_takes_its_place(
    there: FakeHub, made: Path, run: Path, tmp_path: Path
) -> None:
    """If it fails, a retry makes a second commit, or weights of an older policy stay beside a newer one's."""
    first = hub.push(run, CONFIG, TOKEN)
    assert hub.push(run, CONFIG, TOKEN) == first and len(there.commits) == 1
    others = {"notes/mine.json", "models/mine.safetensors"}
    there.files["org/policy"] |= dict.fromkeys(others, b"{}")
    unseal(run / "policy" / "model.safetensors")
    (run / "policy" / "model.safetensors").rename(run / "policy" / "model-00002-of-00002.safetensors")
    hub.push(run, CONFIG, TOKEN)
    names = {*there.files["org/policy"]}
    assert {*others, "model-00002-of-00002.safetensors"} < names and "model.safetensors" not in names
    hub.push(run_folder(tmp_path / "adapted", adapter=True), CONFIG, TOKEN)
    assert "adapter/adapter_model.safetensors" in there.files["org/policy"]
    hub.push(made, CONFIG, TOKEN)
    assert "adapter/adapter_model.safetensors" not in there.files["org/policy"]
    assert others < {*there.files["org/policy"]}


@pytest.mark.parametrize("adapter", [False, True])
def test_the_sums_are_those_of_what_is_there(there: FakeHub, tmp_path: Path, adapter: bool) -> None:
    """If it fails, whoever checks what was downloaded is told that it is damaged, or is not told that it is."""
    hub.push(run_folder(tmp_path / "run", adapter), CONFIG, TOKEN)
    fetched = fetch(there, tmp_path / "fetched")
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", SUMS], cwd=fetched, check=True)
    named = {line.split("  ")[1] for line in (fetched / SUMS).read_text().splitlines()}
    assert named == {*there.files["org/policy"]} - {SUMS, ".gitattributes"}
    (fetched / "README.md").write_text("what its owner says")
    assert checkpoint.load(fetched, CPU, moments=False).denoiser.has_adapter is adapter
    (fetched / "gdsd.json").write_bytes((fetched / "gdsd.json").read_bytes() + b" ")
    with pytest.raises(CheckpointError, match=r"gdsd\.json is damaged"):
        checkpoint.load(fetched, CPU, moments=False)


@pytest.mark.parametrize(
    ("name", "is_pushed_before"),
    [
        ("README.md", False),
        ("README.md", True),  # edited on the hub since
        ("model.safetensors", False),
        ("adapter_config.json", True),
        ("model-00001-of-00002.safetensors", True),
        ("base.json", False),
        ("special_tokens_map.json", True),
        ("chat_template.jinja", False),
        ("SHA256SUMS", False),
    ],
)
def test_files_of_others_stay_unless_it_is_said_otherwise(
    there: FakeHub, run: Path, name: str, is_pushed_before: bool
) -> None:
    """If it fails, a card or a model that somebody else has put there is gone, or keeps the policy from loading."""
    there.files["org/policy"], there.private["org/policy"] = {".gitattributes": b""}, True
    if is_pushed_before:
        hub.push(run, CONFIG, TOKEN)
    there.files["org/policy"][name] = b"somebody else's"
    before = dict(there.files["org/policy"])
    with (run / "README.md").open("a") as card:
        card.write("another card")
    with pytest.raises(PublishError, match=f"has {name}, which no push.*publish.hub.overwrite") as found:
        hub.push(run, CONFIG, TOKEN)
    assert there.files["org/policy"] == before and not transient.may_pass(found.value)
    hub.push(run, CONFIG.model_copy(update={"overwrite": True}), TOKEN)
    assert there.files["org/policy"].get(name) != b"somebody else's"
    assert checkpoint_record.RECORD in there.files["org/policy"]


def test_the_sums_of_somebody_else_make_no_file_ours(there: FakeHub, run: Path) -> None:
    """If it fails, a repository whose owner lists digests too loses its card and weights without a word."""
    theirs = {"README.md": b"their card", "model.safetensors": b"their weights"}
    sealed = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in theirs.items())
    there.files["org/policy"], there.private["org/policy"] = theirs | {SUMS: sealed.encode()}, True
    with pytest.raises(PublishError, match=f"has README.md, {SUMS}, model.safetensors, which no push"):
        hub.push(run, CONFIG, TOKEN)
    assert there.commits == []


def test_a_public_repository_is_used_only_if_that_is_meant(there: FakeHub, run: Path) -> None:
    """If it fails, a policy that was to be private is read by everybody."""
    there.files["org/policy"], there.private["org/policy"] = {}, False
    with pytest.raises(PublishError, match=r"public.*set publish\.hub\.private to false"):
        hub.push(run, CONFIG, TOKEN)
    assert there.commits == []
    hub.push(run, HubConfig(repo="org/policy", private=False), TOKEN)
    assert len(there.commits) == 1


def test_addresses_and_paths_stay_at_home(there: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, everybody reads what a team's servers, buckets and folders are called; or cannot use the rest.

    The policy is an adapter on a model in a folder: whoever has the model, wherever it lies, can load it.
    """
    home = tmp_path / "very-private"
    write_llada(home / "llada")
    (home / "mine.jsonl").write_text("{}")
    data = {"path": str(home / "mine.jsonl")}
    publish = {"trackers": [{"name": "mlflow", "uri": "https://mlflow.very-private"}], "licence": "mit"}
    publish["hub"] = {"repo": "org/very-private"}
    config = {
        "name": "a-run",
        "rounds": 2,
        "prompts": {"train_data": data, "test_data": data},
        "policy": {"model": {"path": str(home / "llada")}, "adapter": {"rank": 2}},
        "publish": publish,
    }
    run = record(config=TrainConfig.model_validate_json(json.dumps(config)))
    folder = run_folder(tmp_path / "run", adapter=True, run=run, base=home / "llada")
    hub.push(folder, CONFIG, TOKEN)
    assert [name for name, content in there.files["org/policy"].items() if b"very-private" in content] == []
    assert b"very-private" in (folder / "run.json").read_bytes(), "the run's own folder has all"
    assert b"very-private" not in (folder / "report.html").read_bytes(), "trackers get the page"
    fetched = fetch(there, tmp_path / "fetched")
    read = TrainConfig.model_validate_json(written.read(fetched / "config.yaml"))
    assert isinstance(read.policy.model, ModelFolder) and isinstance(run.config.policy.model, ModelFolder)
    assert read.policy.model.sha256 == run.config.policy.model.sha256 and read.publish.licence == "mit"
    assert RunRecord.model_validate_json((fetched / "run.json").read_text()).config == read
    monkeypatch.setenv("GDSD_MODELS", str(home))
    assert checkpoint.load(fetched, CPU, moments=False).denoiser.has_adapter


@pytest.mark.parametrize("adapter", [False, True])
def test_the_card_on_the_hub_loads_the_policy_as_it_stands(
    there: FakeHub, tmp_path: Path, adapter: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If it fails, nobody but us can use what we publish, or nobody knows from where to take what loads it."""
    address = "https://git.example/team/gdsd"
    config = TrainConfig(name="a-run", rounds=2, publish=PublishConfig(pipeline=address))
    hub.push(run_folder(tmp_path / "run", adapter, record(config=config)), CONFIG, TOKEN)
    card = there.files["org/policy"]["README.md"].decode()
    assert f"git clone {address} pipeline && cd pipeline && make install" in card
    (code,) = re.findall(r"```python\n(.*?)\n```", card, re.S)
    (tmp_path / "example.py").write_text(code)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    capsys.readouterr()
    runpy.run_path(str(tmp_path / "example.py"))
    assert len(capsys.readouterr().out.strip()) > 4


def test_a_push_that_is_broken_off_is_completed_by_the_next_one(there: FakeHub, run: Path) -> None:
    """If it fails, a machine that is taken away in the middle leaves half a policy on the hub."""
    there.failures["/commit/"] = [503]
    with pytest.raises(UnreachableError) as found:
        hub.push(run, CONFIG, TOKEN)
    assert transient.may_pass(found.value)
    assert {*there.files["org/policy"]} == {".gitattributes"} and there.commits == []
    hub.push(run, CONFIG, TOKEN)
    assert "model.safetensors" in there.files["org/policy"] and len(there.commits) == 1
    assert len([path for path, _ in there.asked if path.startswith("PUT /large/")]) == 1, "the weights were sent twice"


@pytest.mark.parametrize(
    ("place", "status", "again", "words"),
    [
        ("/api/repos/create", 401, False, r"does not let this token write to org/policy \(401.*set HF_TOKEN"),
        ("/commit/", 403, False, r"does not let this token write to org/policy \(403.*set HF_TOKEN"),
        ("/api/repos/create", 400, False, r"refuses org/policy \(400"),
        ("/api/repos/create", 500, True, r"did not take org/policy \(500"),
        ("/api/repos/create", 429, True, r"did not take org/policy \(429"),
        ("/commit/", 412, True, r"did not take org/policy \(412"),
    ],
)
def test_a_refusal_says_who_what_and_whether_it_is_worth_another_attempt(
    there: FakeHub, run: Path, place: str, status: int, again: bool, words: str
) -> None:
    """If it fails, a wrong token is tried until the retries are spent, or an outage of a minute ends a run."""
    there.failures[place] = [status]
    with pytest.raises(UnreachableError if again else PublishError, match=words) as found:
        hub.push(run, CONFIG, TOKEN)
    assert transient.may_pass(found.value) is again and TOKEN not in str(found.value)


def test_a_hub_that_is_not_there_is_tried_again_and_a_policy_that_is_not_is_refused(
    there: FakeHub, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, a lost connection at the end of a run ends it, or a mistyped folder makes an empty repository."""
    with monkeypatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(UnreachableError, match="was not reached for org/policy") as found:
            hub.push(run, CONFIG, TOKEN)
    assert transient.may_pass(found.value)
    (run / "policy/config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"config\.json is damaged"):
        hub.push(run, CONFIG, TOKEN)
    shutil.rmtree(run / "policy")
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        hub.push(run, CONFIG, TOKEN)
    assert there.asked == []
