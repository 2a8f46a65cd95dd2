"""Pushing to the hub: by its own library, to a server on this machine."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch

from tasks.gdsd import report, transient
from tasks.gdsd.config.policy import AdapterConfig, TinyModelConfig
from tasks.gdsd.config.publish import HubConfig
from tasks.gdsd.denoiser import checkpoint, checkpoint_record, tiny
from tasks.gdsd.errors import CheckpointError, PublishError, UnreachableError
from tasks.gdsd.publish import hub
from tasks.gdsd.report import model_card
from tests.gdsd.checkpoints import CPU, trained
from tests.gdsd.fake_hub import TOKEN, FakeHub
from tests.gdsd.report.records import ORIGIN, pairs, record

CONFIG = HubConfig(repo="org/policy")
SMALL = TinyModelConfig(hidden_size=16, intermediate_size=16, layers=1, heads=2)


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub() as server:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        yield server


def run_folder(folder: Path, adapter: bool = False) -> Path:
    """What `report_run` leaves, of a run that was made up."""
    folder.mkdir()
    denoiser = tiny.build(SMALL, 0)
    if adapter:
        denoiser.attach_adapter(AdapterConfig(rank=2), 0)
    checkpoint.save(folder / "policy", trained(denoiser))
    run = record()
    report.write(folder, run, pairs(), ORIGIN)
    card = model_card.write(run, checkpoint_record.read_record(folder / "policy"), ORIGIN)
    (folder / "README.md").write_text(card, "utf-8")
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
    policy = {path.name for path in (run / "policy").iterdir()} - {checkpoint_record.OPTIMIZER}
    assert {*files} == policy | {".gitattributes", *hub.BESIDE}
    (tmp_path / "fetched").mkdir()
    for name, content in files.items():
        (tmp_path / "fetched" / name).write_bytes(content)
    fetched = checkpoint.load(tmp_path / "fetched", CPU, moments=False).denoiser
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
    there.files["org/policy"] |= {"model-00001-of-00002.safetensors": b"old", "notes/mine.json": b"{}"}
    (run / "policy" / "model.safetensors").rename(run / "policy" / "model-00002-of-00002.safetensors")
    hub.push(run, CONFIG, TOKEN)
    names = {*there.files["org/policy"]}
    assert "notes/mine.json" in names and "model-00002-of-00002.safetensors" in names
    assert not names & {"model.safetensors", "model-00001-of-00002.safetensors"}
    hub.push(run_folder(tmp_path / "adapted", adapter=True), CONFIG, TOKEN)
    assert "adapter/adapter_model.safetensors" in there.files["org/policy"]
    hub.push(made, CONFIG, TOKEN)
    assert "adapter/adapter_model.safetensors" not in there.files["org/policy"]


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
    shutil.rmtree(run / "policy")
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        hub.push(run, CONFIG, TOKEN)
    assert there.asked == []
