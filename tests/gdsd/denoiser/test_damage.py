"""Folders that were damaged, half copied or made by somebody hostile: refused by name, and no code of theirs runs."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.gdsd.config.model_source import digest
from tasks.gdsd.config.policy import AdapterConfig
from tasks.gdsd.denoiser import checkpoint
from tasks.gdsd.denoiser.load import load_folder
from tasks.gdsd.errors import CheckpointError
from tests.gdsd.checkpoints import CPU, damage, edit_json, trained
from tests.gdsd.conftest import build
from tests.gdsd.official import WRITERS, write_llada

INDEX = "model.safetensors.index.json"
POLICY = ("config.json", "gdsd.json", "model.safetensors", "optimizer.safetensors", "tokenizer.json")
ADAPTER = ("adapter/adapter_config.json", "adapter/adapter_model.safetensors")
PUBLISHED = ("config.json", "tokenizer.json", INDEX, "model-00002-of-00003.safetensors")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with an adapter, and a published model in three shards; not to be changed."""
    place = tmp_path_factory.mktemp("made")
    denoiser = build()
    denoiser.attach_adapter(AdapterConfig(rank=4), seed=0)
    checkpoint.save(place / "policy", trained(denoiser))
    write_llada(place / "published", shards=3)
    return place


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made / "policy", tmp_path / "policy")


@pytest.mark.parametrize("kind", ["missing", "truncated", "empty", "garbage"])
@pytest.mark.parametrize("name", [*POLICY, "tokenizer_config.json", *ADAPTER, *(f"published/{x}" for x in PUBLISHED)])
def test_a_damaged_file_is_refused_by_name(name: str, kind: str, made: Path, tmp_path: Path) -> None:
    """If it fails, a half-copied folder ends in a stack trace of another library, or worse, loads."""
    published = name.startswith("published/")
    folder = shutil.copytree(made / ("published" if published else "policy"), tmp_path / "copy")
    damage(folder / name.removeprefix("published/"), kind)
    with pytest.raises(CheckpointError, match=Path(name).name.replace(".", r"\.")):
        load_folder(folder, "llada", CPU) if published else checkpoint.load(folder, CPU)


def test_one_wrong_bit_is_found(folder: Path, tmp_path: Path) -> None:
    """If it fails, a disk that forgets a bit changes a policy, and nobody ever learns why it got worse.

    Only a part of all bits breaks a file's form; a weight with another exponent looks like any other.
    """
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    assert {"SHA256SUMS", *POLICY, *ADAPTER} <= set(names)
    for name in names:
        copy = shutil.copytree(folder, tmp_path / "copy")
        content = bytearray((copy / name).read_bytes())
        content[-3] ^= 4
        (copy / name).write_bytes(content)
        with pytest.raises(CheckpointError) as refused:
            checkpoint.load(copy, CPU)
        if name != "SHA256SUMS":
            assert f"{copy}/{name} is damaged" in str(refused.value) or f"{copy}/{name} is not" in str(refused.value)
            assert name == "gdsd.json" or "run again what made it" in str(refused.value)
        if name not in ("SHA256SUMS", "gdsd.json", "optimizer.safetensors"):
            with pytest.raises(CheckpointError, match="is damaged"):
                checkpoint.rebase(copy, tmp_path / "base")
        (copy / name).unlink()
        if name != "SHA256SUMS":
            with pytest.raises(CheckpointError, match=Path(name).name.replace(".", r"\.")):
                checkpoint.load(copy, CPU)
        shutil.rmtree(copy)


class Bomb:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (os.environ["BOMB"],)


@pytest.mark.parametrize("name", [*WRITERS, "policy"])
def test_neither_code_nor_pickles_are_opened(
    name: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, a downloaded model can run code: each names modelling code, and some ship pickled weights.

    Nor are pickles opened where the safe file is missing; peft would do so with an adapter.
    """
    crater, folder = tmp_path / "crater", tmp_path / "model"
    monkeypatch.setenv("BOMB", str(crater))
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    if name == "policy":
        shutil.copytree(made / "policy", folder)
    else:
        WRITERS[name](folder)

    def load() -> None:
        checkpoint.load(folder, CPU) if name == "policy" else load_folder(folder, name, CPU)

    for file in ("pytorch_model.bin", "model.bin", "optimizer.pt", "training_args.bin", "tokenizer.pkl"):
        (folder / file).write_bytes(pickle.dumps(Bomb()))
    evil = {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}
    edit_json(folder / "config.json", auto_map=evil)
    edit_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]})
    (folder / "evil.py").write_text("raise SystemExit('code of the checkpoint was run')\n")
    safe = folder / "model.safetensors"
    if name == "policy":
        (folder / "adapter/adapter_model.bin").write_bytes(pickle.dumps(Bomb()))
        safe = folder / "adapter/adapter_model.safetensors"
    load()
    safe.unlink()
    with pytest.raises(CheckpointError, match=safe.name.replace(".", r"\.")):
        load()
    assert not crater.exists()
    pickle.loads(pickle.dumps(Bomb()))
    assert crater.exists(), "the bomb works, so the test means something"


@pytest.mark.parametrize("content", ["[]", "null", "{}", '{"weight_map": 3}', '{"weight_map": []}', "[" * 100_000])
def test_json_of_another_form_is_refused(content: str, folder: Path, tmp_path: Path) -> None:
    """If it fails, a damaged file ends in a stack trace."""
    (folder / "adapter/adapter_config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"adapter_config\.json"):
        checkpoint.load(folder, CPU)
    write_llada(tmp_path / "model", shards=3)
    (tmp_path / "model" / INDEX).write_text(content)
    with pytest.raises(CheckpointError, match="safetensors"):
        load_folder(tmp_path / "model", "llada", CPU)


def test_no_folder_at_all(tmp_path: Path) -> None:
    """If it fails, a mistyped path ends in a stack trace, or is looked up on the network."""
    with pytest.raises(CheckpointError, match=r"nowhere is not a checkpoint"):
        checkpoint.load(tmp_path / "nowhere", CPU)


def test_the_folder_of_a_run_is_told_from_its_policy(folder: Path, tmp_path: Path) -> None:
    """If it fails, who names a run's folder is not told that the policy is inside."""
    shutil.copytree(folder, tmp_path / "run/policy")
    with pytest.raises(CheckpointError, match=r"run is not a checkpoint: .*; name the folder `policy` in it"):
        checkpoint.load(tmp_path / "run", CPU)
    with pytest.raises(CheckpointError, match="no model in it; name the folder `policy` in it"):
        digest(tmp_path / "run")
