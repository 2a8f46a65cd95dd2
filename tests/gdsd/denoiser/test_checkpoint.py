"""Checkpoints: nothing is lost, equal training gives equal bytes, and damage is refused by name."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tasks.gdsd.config.policy import AdapterConfig
from tasks.gdsd.denoiser import checkpoint, checkpoint_record
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.errors import CheckpointError
from tasks.gdsd.files import SUMS, digest
from tests.gdsd.checkpoints import CPU, edit_json, edit_tensors, trained

ALL_FILES = [
    "config.json",
    "gdsd.json",
    "model.safetensors",
    "optimizer.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
]


@pytest.fixture
def folder(denoiser: Denoiser, tmp_path: Path) -> Path:
    return checkpoint.save(tmp_path / "policy", trained(denoiser))


@pytest.fixture(params=[False, True], ids=["all weights", "adapter"])
def adapted(request: pytest.FixtureRequest, denoiser: Denoiser, other_denoiser: Denoiser) -> bool:
    """Gives both policies an adapter, or neither."""
    if request.param:
        for policy in (denoiser, other_denoiser):
            policy.attach_adapter(AdapterConfig(rank=2, alpha=4.0, targets=["v_proj", "up_proj"]), seed=0)
    return request.param


def test_a_round_trip_loses_nothing(denoiser: Denoiser, adapted: bool, tmp_path: Path) -> None:
    """If it fails, a run that continues from a checkpoint is not the run that was interrupted."""
    state = trained(denoiser)
    loaded = checkpoint.load(checkpoint.save(tmp_path / "policy", state), CPU)
    assert loaded.record == state.record == checkpoint_record.read_record(tmp_path / "policy")
    assert loaded.denoiser.has_adapter == loaded.record.adapter == adapted
    weights, found = state.denoiser.state_dict(), loaded.denoiser.state_dict()
    assert weights.keys() == found.keys() and all(torch.equal(weights[name], found[name]) for name in weights)
    assert state.optimizer.keys() == loaded.optimizer.keys()
    for name, tensor in state.optimizer.items():
        assert torch.equal(tensor, loaded.optimizer[name]) and tensor.dtype == loaded.optimizer[name].dtype
    ids = torch.tensor([denoiser.encode("1.34=")])
    assert torch.equal(denoiser(ids), loaded.denoiser(ids))
    text = "12.4 abc"
    assert loaded.denoiser.encode(text) == denoiser.encode(text)
    assert loaded.denoiser.decode(denoiser.encode(text)) == text
    assert loaded.denoiser.never_sampled == denoiser.never_sampled and loaded.denoiser.end_id == denoiser.end_id


def test_a_base_policy_round_trips_without_optimizer_state(denoiser: Denoiser, tmp_path: Path) -> None:
    """If it fails, the first epoch of every run fails to load its policy."""
    loaded = checkpoint.load(checkpoint.save(tmp_path / "base", checkpoint.base_state(denoiser)), CPU)
    assert loaded.optimizer == {} and loaded.record.round == 0 and loaded.record.parent is None


@pytest.mark.usefixtures("adapted")
def test_equal_training_gives_equal_bytes(denoiser: Denoiser, other_denoiser: Denoiser, tmp_path: Path) -> None:
    """If it fails, the cache takes equal policies for different ones and computes everything after them again."""
    other_denoiser.load_state_dict(denoiser.state_dict())
    first = checkpoint.save(tmp_path / "first", trained(denoiser))
    second = checkpoint.save(tmp_path / "elsewhere" / "second", trained(other_denoiser))
    assert digest(first) == digest(second)
    longer = checkpoint.save(tmp_path / "longer", trained(denoiser, steps=1))
    assert digest(longer) != digest(first)


@pytest.mark.usefixtures("adapted")
def test_loading_and_saving_changes_no_byte(folder: Path, tmp_path: Path) -> None:
    """If it fails, one policy has two digests, depending on whether it was built in the process that saved it."""
    again = checkpoint.save(tmp_path / "again", checkpoint.load(folder, CPU))
    names = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    assert [name for name in names if (folder / name).read_bytes() != (again / name).read_bytes()] == []
    assert digest(again) == digest(folder)


def test_the_files_are_the_standard_ones(folder: Path) -> None:
    """If it fails, other tools cannot read a trained policy, or it is stored as pickle."""
    assert {path.name for path in folder.iterdir()} - {"generation_config.json"} == {*ALL_FILES, SUMS}


@pytest.mark.parametrize("step", ["optimizer", "record", "rename"])
def test_a_failed_save_leaves_nothing(
    step: str, denoiser: Denoiser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, a full disk leaves half a checkpoint, which a resumed run takes for a whole one."""

    def full(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    if step == "optimizer":
        monkeypatch.setattr(checkpoint, "save_file", full)
    elif step == "record":
        monkeypatch.setattr(Path, "write_text", full)
    else:
        monkeypatch.setattr(os, "rename", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(tmp_path / "policy", trained(denoiser))
    assert list(tmp_path.iterdir()) == []


def test_an_existing_checkpoint_is_not_touched(folder: Path, other_denoiser: Denoiser) -> None:
    """If it fails, saving twice to one place mixes two policies."""
    before = digest(folder)
    with pytest.raises(OSError):
        checkpoint.save(folder, checkpoint.base_state(other_denoiser))
    assert digest(folder) == before and list(folder.parent.iterdir()) == [folder]


def test_others_may_read_a_checkpoint(folder: Path) -> None:
    """If it fails, a policy in a shared folder can be listed and read by nobody but the user who trained it.

    The folder must have the permissions that any new folder gets under the umask, not those of a temporary one.
    """
    (folder.parent / "plain").mkdir()
    assert oct(folder.stat().st_mode) == oct((folder.parent / "plain").stat().st_mode)


# Damage


def test_digests_are_those_of_the_usual_tool(folder: Path) -> None:
    """If it fails, a person cannot check a copy of a policy without this project."""
    done = subprocess.run(["sha256sum", "--check", "--strict", SUMS], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0 and len(done.stdout.splitlines()) >= len(ALL_FILES), done.stderr


def test_only_what_is_wanted_has_to_be_whole(folder: Path) -> None:
    """If it fails, sampling reads the moments, twice the weights, or a policy without them cannot be sampled from."""
    (folder / "optimizer.safetensors").unlink()
    assert checkpoint.load(folder, CPU, moments=False).optimizer == {}


def test_a_checkpoint_of_before_there_were_digests(folder: Path) -> None:
    """If it fails, policies that were trained before have become useless."""
    (folder / SUMS).unlink()
    assert checkpoint.load(folder, CPU).record.round == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.update({"network.lm_head.weight.exp_avg": torch.zeros(2, 2)}),
        lambda tensors: tensors.pop("network.lm_head.weight.exp_avg_sq"),
        lambda tensors: tensors.update({"network.no_such.weight.step": torch.zeros(())}),
    ],
    ids=["shape", "lacking", "surplus"],
)
def test_optimizer_state_that_does_not_fit_is_refused(
    change: Callable[[dict[str, Tensor]], object], folder: Path
) -> None:
    """If it fails, an epoch dies of a KeyError or a shape, far from the cause, or goes on without its moments."""
    edit_tensors(folder / "optimizer.safetensors", change)
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors"):
        checkpoint.load(folder, CPU)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"hidden_size": 32}, "do not fit config"),
        ({"num_hidden_layers": 3}, "lacks 9 tensors"),
        ({"is_causal": True}, "is_causal"),
        ({"is_causal": None}, "is_causal"),
    ],
    ids=str,
)
def test_a_configuration_of_another_network_is_refused(values: dict[str, object], said: str, folder: Path) -> None:
    """If it fails, another policy's config.json turns this one into noise, or a causal model is read without a mask."""
    edit_json(folder / "config.json", **values)
    with pytest.raises(CheckpointError, match=said):
        checkpoint.load(folder, CPU)


@pytest.mark.parametrize(
    "values",
    [{"round": "three"}, {"updates": None}, {"surplus": 1}, {"format": 2}],
    ids=["type", "null", "surplus", "later format"],
)
def test_a_record_of_another_form_is_refused(values: dict[str, object], folder: Path) -> None:
    """If it fails, a checkpoint of a later version is read as if nothing had changed."""
    edit_json(folder / "gdsd.json", **values)
    with pytest.raises(CheckpointError, match=r"gdsd\.json"):
        checkpoint.load(folder, CPU)


# The base of another run


def test_a_policy_begins_another_run_with_its_weights_alone(denoiser: Denoiser, adapted: bool, tmp_path: Path) -> None:
    """If it fails, a nightly run trains rounded weights, or ends its learning rate where the night before did."""
    source = checkpoint.save(tmp_path / "policy", trained(denoiser))
    base = checkpoint.rebase(source, tmp_path / "base")
    for path in source.rglob("*"):
        if path.is_file() and path.name not in ("gdsd.json", "optimizer.safetensors", SUMS):
            assert (base / path.relative_to(source)).read_bytes() == path.read_bytes()
    state = checkpoint.load(base, CPU)
    assert state.optimizer == {} and state.denoiser.has_adapter == adapted
    record = checkpoint_record.read_record(source)
    began = {"round": 0, "updates": 0, "skipped_in_a_row": 0, "parent": digest(source)}
    assert record.round > 0 and state.record == record.model_copy(update=began)
    assert {path.name for path in tmp_path.iterdir()} == {"policy", "base"}


# Digests


def test_a_digest_sees_names_and_bytes(tmp_path: Path) -> None:
    """If it fails, `parent` does not tell which checkpoint a policy was trained from."""

    def made(name: str, files: dict[str, str]) -> str:
        for path, text in files.items():
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).write_text(text)
        return digest(tmp_path / name)

    first = made("one", {"a": "x", "b/c": "y"})
    assert first == made("two", {"b/c": "y", "a": "x"})
    others = [{"a": "x", "b/c": "z"}, {"a": "x", "b/d": "y"}, {"a": "x"}, {"a": "y", "b/c": "x"}, {"a": "xb/cy"}]
    assert len({first, *(made(f"other{index}", files) for index, files in enumerate(others))}) == 6
