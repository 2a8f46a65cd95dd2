"""Pinned models: what changed is refused, and a checkpoint with an adapter names its base instead of copying it."""

import hashlib
import json
import os
from io import BufferedReader
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors

from tasks.gdsd.config.model_source import HubModel, ModelFolder, ModelSource, digest, resolve
from tasks.gdsd.config.policy import AdapterConfig
from tasks.gdsd.denoiser import checkpoint
from tasks.gdsd.denoiser.checkpoint import PolicyState
from tasks.gdsd.denoiser.checkpoint_record import BaseRecord
from tasks.gdsd.denoiser.load import load_outline, load_source
from tasks.gdsd.errors import CheckpointError, ConfigError
from tasks.gdsd.files import digest as content
from tasks.gdsd.strict import Config
from tests.gdsd.checkpoints import CPU, edit_json, edit_tensors
from tests.gdsd.official import WRITERS, write_dream, write_llada

REVISION = "0123456789abcdef0123456789abcdef01234567"


class Chosen(Config):
    model: ModelSource


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_llada(tmp_path / "model", shards=3)
    return tmp_path / "model"


# Pins


@pytest.mark.parametrize("pin", [{}, {"sha256": "0" * 64}])
def test_an_address_is_no_folder(pin: dict[str, str]) -> None:
    """If it fails, who goes on from a cluster's policy is told to give its sha256, which does not help them either."""
    given = json.dumps({"model": {"path": "s3://bucket/run/policy"} | pin})
    with pytest.raises(ConfigError, match=r"got 's3://bucket/run/policy'; .*Download it.*GDSD_MODELS.*push it"):
        Chosen.model_validate_json(given)


def test_a_pin_sees_every_file_that_is_read(model: Path) -> None:
    """If it fails, another model answers under the same name: other weights, another shape, another tokenizer."""
    pin = digest(model)
    for name in sorted(path.name for path in model.iterdir()):
        before = (model / name).read_bytes()
        changed = bytearray(before)
        changed[-1] ^= 1  # one bit, without a change of size
        (model / name).write_bytes(changed)
        os.utime(model / name, (1, 1))
        assert digest(model) != pin, name
        (model / name).write_bytes(before)
    for name in ("README.md", "modeling_llada.py", "pytorch_model.bin", ".gitattributes"):
        (model / name).write_text("not read, so not counted")
    (model / "adapter").mkdir()
    assert digest(model) == pin
    (model / "config.json").rename(model / "renamed.json")
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        digest(model)


def test_a_folder_is_pinned_when_the_configuration_is_loaded(model: Path) -> None:
    """If it fails, a model that changes between two stages is not noticed."""
    chosen = Chosen.model_validate_json(json.dumps({"model": {"path": str(model)}}))
    assert chosen.model == ModelFolder(path=str(model), sha256=digest(model))
    assert Chosen.model_validate_json(chosen.model_dump_json()) == chosen
    assert resolve(chosen.model) == model
    edit_tensors(model / "model-00001-of-00003.safetensors", lambda found: next(iter(found.values())).mul_(2))
    said = (
        f"{model} with the SHA-256 {digest_of(chosen)} was pinned.*content of {model} has the SHA-256 {digest(model)}"
    )
    with pytest.raises(CheckpointError, match=said):
        resolve(chosen.model)
    with pytest.raises(CheckpointError, match="is not a folder"):
        resolve(ModelFolder(path=str(model / "nowhere"), sha256="0" * 64))


def digest_of(chosen: Chosen) -> str:
    assert isinstance(chosen.model, ModelFolder)
    return chosen.model.sha256


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"path": "/nowhere"}, "no such folder: '/nowhere'; if only the cluster can read it, give its sha256"),
        ({"path": ""}, "path: got ''"),
        ({"path": "/nowhere", "sha256": "abc"}, "sha256: got 'abc'"),
        ({"hub": "GSAI-ML/LLaDA-8B-Instruct"}, "revision"),
        ({"hub": "GSAI-ML/LLaDA-8B-Instruct", "revision": "main"}, "revision: got 'main'"),
        ({"hub": "a/b/c", "revision": REVISION}, "hub: got 'a/b/c'"),
        ({"hub": "../b", "revision": REVISION, "path": "x"}, "unknown key"),
    ],
    ids=str,
)
def test_what_does_not_pin_is_refused(values: dict[str, str], said: str) -> None:
    """If it fails, a run depends on a branch that moves, or on a folder that is not there."""
    with pytest.raises(ConfigError, match=said):
        Chosen.model_validate_json(json.dumps({"model": values}))


# The hub


def in_cache(home: Path) -> Path:
    """A cache of the hub's library with one model, as a download leaves it."""
    place = home / "hub/models--GSAI-ML--LLaDA-8B-Instruct"
    write_llada(place / "snapshots" / REVISION)
    (place / "refs").mkdir()
    (place / "refs/main").write_text(REVISION)
    return place / "snapshots" / REVISION


def test_without_network_the_cache_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a cluster without internet cannot train a model that lies on its disk."""
    in_cache(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    found = HubModel(hub="GSAI-ML/LLaDA-8B-Instruct", revision=REVISION)
    assert load_source(found, CPU).family.name == "llada"
    for other in (found.model_copy(update={"revision": "f" * 40}), found.model_copy(update={"hub": "no/model"})):
        with pytest.raises(CheckpointError, match=f"{other.hub} at {other.revision} is not in the local cache"):
            load_source(other, CPU)


def test_only_data_is_asked_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, code and pickles of a repository land on the disk, or another revision than the pinned one."""
    snapshot = in_cache(tmp_path)
    asked: list[dict[str, object]] = []

    def download(repository: str, **options: object) -> str:
        asked.append({"repository": repository, **options})
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    source = HubModel(hub="GSAI-ML/LLaDA-8B-Instruct", revision=REVISION)
    assert resolve(source) == snapshot
    assert asked[0]["repository"] == source.hub and asked[0]["revision"] == REVISION
    patterns = asked[0]["allow_patterns"]
    assert isinstance(patterns, list) and not any(kind.endswith((".py", ".bin", ".pt", "*")) for kind in patterns)
    assert load_outline(source).family.name == "llada"  # to look at prompts before 16 GB are on their way
    assert asked[1]["allow_patterns"] == [kind for kind in patterns if kind != "*.safetensors"]
    with pytest.raises(CheckpointError, match=f"gave the revision {REVISION} instead"):
        resolve(HubModel(hub=source.hub, revision="f" * 40))


def answered(kind: type[errors.HfHubHTTPError]) -> errors.HfHubHTTPError:
    return kind("no", response=SimpleNamespace(headers={}, request=None))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (errors.LocalEntryNotFoundError("no"), "not in the local cache and the hub cannot be reached"),
        (errors.OfflineModeIsEnabled("no"), "not in the local cache"),
        (OSError("No space left on device"), "cannot be downloaded: OSError: No space left"),
        (answered(errors.RepositoryNotFoundError), "the hub has no model a/b"),
        (answered(errors.RevisionNotFoundError), "no such commit"),
        (answered(errors.GatedRepoError), "is gated"),
        (answered(errors.HfHubHTTPError), "cannot be downloaded: HfHubHTTPError"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_the_hub_cannot_give_is_said(error: Exception, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a run dies of a stack trace, or a gated or mistyped model looks like a fault of the network."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(CheckpointError, match=f"a/b at {REVISION}.*{said}"):
        resolve(HubModel(hub="a/b", revision=REVISION))


# Checkpoints on a pinned base


def adapted(model: Path) -> PolicyState:
    denoiser = load_source(ModelFolder(path=str(model)), CPU)
    denoiser.attach_adapter(AdapterConfig(rank=2, alpha=4.0), seed=0)
    optimizer = torch.optim.AdamW([parameter for _, parameter in denoiser.trainable()], 1e-2)
    denoiser.head().logits(denoiser(torch.tensor([[9, 10, 11]]))).square().sum().backward()
    optimizer.step()
    return checkpoint.base_state(denoiser)


@pytest.mark.parametrize("name", WRITERS)
def test_an_adapter_names_its_base_and_does_not_copy_it(name: str, tmp_path: Path) -> None:
    """If it fails, every round of an 8B policy writes 16 GB, or its adapter is read on another base."""
    WRITERS[name](tmp_path / "model")
    state = adapted(tmp_path / "model")
    folder = checkpoint.save(tmp_path / "policy", state)
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == {
        *("gdsd.json", "optimizer.safetensors", "base.json", "SHA256SUMS"),
        *("adapter/adapter_config.json", "adapter/adapter_model.safetensors"),
    }
    loaded = checkpoint.load(folder, CPU)
    assert loaded.record == state.record and loaded.record.adapter and loaded.record.family == name
    ids = torch.tensor([[9, 10, 11, 12]])
    with torch.no_grad():
        assert torch.equal(loaded.denoiser(ids), state.denoiser(ids))
        with loaded.denoiser.base_only(), state.denoiser.base_only():
            assert torch.equal(loaded.denoiser(ids), state.denoiser(ids))
    assert content(checkpoint.save(tmp_path / "again", loaded)) == content(folder)


def test_a_base_as_it_was_published_is_named_too(model: Path, tmp_path: Path) -> None:
    """If it fails, the base policy of each run copies the model."""
    denoiser = load_source(ModelFolder(path=str(model)), CPU)
    folder = checkpoint.save(tmp_path / "base", checkpoint.base_state(denoiser))
    assert not list(folder.glob("model*")) and (folder / "base.json").exists()
    loaded = checkpoint.load(folder, CPU).denoiser.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in denoiser.state_dict().items())


@pytest.mark.parametrize("adapter", [False, True], ids=["all weights", "then an adapter"])
@pytest.mark.parametrize("optimizer", ["adamw", "adamw fused", "sgd foreach"])
def test_a_trained_base_is_written(adapter: bool, optimizer: str, model: Path, tmp_path: Path) -> None:
    """If it fails, what was trained before the adapter, or without one, is lost: the pinned base stands for it."""
    denoiser = load_source(ModelFolder(path=str(model)), CPU)
    parameters = list(denoiser.parameters())
    chosen = {
        "adamw": lambda: torch.optim.AdamW(parameters, 1e-2),
        "adamw fused": lambda: torch.optim.AdamW(parameters, 1e-2, fused=True),
        "sgd foreach": lambda: torch.optim.SGD(parameters, 1e-2, foreach=True),
    }[optimizer]()
    denoiser.head().logits(denoiser(torch.tensor([[9, 10, 11]]))).square().mean().backward()
    chosen.step()
    if adapter:
        denoiser.attach_adapter(AdapterConfig(rank=2), seed=0)
    folder = checkpoint.save(tmp_path / "policy", checkpoint.base_state(denoiser))
    assert not (folder / "base.json").exists() and (folder / "config.json").exists()
    loaded = checkpoint.load(folder, CPU).denoiser.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in denoiser.state_dict().items())


def test_a_changed_or_missing_base_is_refused(model: Path, tmp_path: Path) -> None:
    """If it fails, an adapter is read on a base that it was not trained on."""
    folder = checkpoint.save(tmp_path / "policy", adapted(model))
    edit_tensors(model / "model-00001-of-00003.safetensors", lambda found: next(iter(found.values())).mul_(2))
    with pytest.raises(CheckpointError, match=f"the content of {model} has the SHA-256"):
        checkpoint.load(folder, CPU)
    model.rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match=f"{model} is not a folder"):
        checkpoint.load(folder, CPU)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"family": "dream"}, "names a model of the family 'dream', not 'llada'"),
        ({"source": {"hub": "a/b", "revision": "main"}}, r"base\.json is damaged"),
        ({"source": None}, r"base\.json is damaged"),
        ({"more": 1}, r"base\.json is damaged"),
    ],
    ids=str,
)
def test_a_base_of_another_form_is_refused(values: dict[str, object], said: str, model: Path, tmp_path: Path) -> None:
    """If it fails, a damaged checkpoint ends in a stack trace, or loads another model."""
    folder = checkpoint.save(tmp_path / "policy", adapted(model))
    edit_json(folder / "base.json", **values)
    with pytest.raises(CheckpointError, match=said):
        checkpoint.load(folder, CPU)
    (folder / "base.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"base\.json is damaged"):
        checkpoint.load(folder, CPU)
    write_dream(tmp_path / "dream")
    base = BaseRecord(family="llada", source=ModelFolder(path=str(tmp_path / "dream")))
    (folder / "base.json").write_text(base.model_dump_json())
    with pytest.raises(CheckpointError, match="says 'llada', but its model is 'dream'"):
        checkpoint.load(folder, CPU)


def test_a_moved_base_is_found_by_its_content(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, whoever tidies up a disk loses every run on its models, or goes on with another model's weights."""
    state = adapted(model)
    folder = checkpoint.save(tmp_path / "policy", state)
    pin = json.loads((folder / "base.json").read_text())["source"]["sha256"]
    for place in ("empty", "wrong", "right"):
        (tmp_path / place).mkdir()
    write_llada(tmp_path / "wrong/model", seed=1)
    model.rename(tmp_path / "right/model")
    with pytest.raises(CheckpointError, match=f"{model} with the SHA-256 {pin} was pinned.*set GDSD_MODELS"):
        checkpoint.load(folder, CPU)
    places = [str(tmp_path / place) for place in ("empty", "wrong")]
    monkeypatch.setenv("GDSD_MODELS", os.pathsep.join(places))
    with pytest.raises(CheckpointError, match=f"content of {places[1]}/model has the SHA-256"):
        checkpoint.load(folder, CPU)
    monkeypatch.setenv("GDSD_MODELS", os.pathsep.join([*places, "", str(tmp_path / "right")]))
    loaded = checkpoint.load(folder, CPU)
    ids = torch.tensor([[9, 10, 11, 12]])
    assert torch.equal(loaded.denoiser(ids), state.denoiser(ids))
    assert content(checkpoint.save(tmp_path / "again", loaded)) == content(folder), "a search leaves no trace"


def test_a_process_reads_a_model_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, every stage of a local run reads 16 GB to no purpose; or a change between two stages goes unseen."""
    monkeypatch.setattr("tasks.gdsd.config.model_source.SETTLED_NS", -(10**18))  # these files are new
    read = []
    once = hashlib.file_digest

    def count(file: BufferedReader, kind: str) -> object:
        read.append(Path(file.name).name)
        return once(file, kind)

    monkeypatch.setattr(hashlib, "file_digest", count)
    first = digest(model)
    assert sorted(read) == sorted(path.name for path in model.iterdir())
    read.clear()
    assert digest(model) == first and not read
    (model / "config.json").write_text((model / "config.json").read_text() + " ")
    assert digest(model) != first and read == ["config.json"]


def test_a_file_that_was_just_written_is_read_again(model: Path) -> None:
    """If it fails, a file that changes twice within a tick of the clock keeps the digest of its first content."""
    first = digest(model)
    state = (model / "config.json").stat()
    (model / "config.json").write_text((model / "config.json").read_text()[:-1] + " ")
    os.utime(model / "config.json", ns=(state.st_atime_ns, state.st_mtime_ns))
    assert digest(model) != first
