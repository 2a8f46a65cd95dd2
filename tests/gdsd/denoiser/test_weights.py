"""Weights of published models: read whole or not at all, and written back in their own layout."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Qwen2ForCausalLM

from tasks.gdsd.denoiser import checkpoint
from tasks.gdsd.denoiser.load import load_folder
from tasks.gdsd.denoiser.weights import WHOLE
from tasks.gdsd.errors import CheckpointError
from tests.gdsd import official
from tests.gdsd.checkpoints import edit_json, edit_tensors
from tests.gdsd.official import WRITERS, write_dream, write_llada, write_qwen3_mdlm

CPU = torch.device("cpu")
INDEX = "model.safetensors.index.json"


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def tensors(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_model_is_written_as_it_was_published(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """If it fails, nobody else can load a trained model: names, config.json or tokenizer are other ones."""
    weights = WRITERS[name](tmp_path / "published", dtype=dtype, torch_dtype=str(dtype).removeprefix("torch."))
    denoiser = load_folder(tmp_path / "published", name, CPU, dtype)
    (tmp_path / "ours").mkdir()
    denoiser.save(tmp_path / "ours")
    published, ours = files(tmp_path / "published"), files(tmp_path / "ours")
    assert published.keys() == ours.keys()
    assert [key for key in published if published[key] != ours[key] and not key.endswith(".safetensors")] == []
    found = tensors(tmp_path / "ours")
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[key], weights[key]) and found[key].dtype == dtype for key in weights)


@pytest.mark.parametrize("name", WRITERS)
def test_large_models_are_written_in_shards(name: str, tmp_path: Path) -> None:
    """If it fails, a model of the published size ends in one file that hubs and file systems refuse."""
    weights = WRITERS[name](tmp_path / "published")
    (tmp_path / "ours").mkdir()
    load_folder(tmp_path / "published", name, CPU).save(tmp_path / "ours", shard_bytes=60_000)
    shards = sorted((tmp_path / "ours").glob("model-*.safetensors"))
    assert len(shards) > 1 and not (tmp_path / "ours/model.safetensors").exists()
    assert all(sum(tensor.nbytes for tensor in load_file(shard).values()) <= 60_000 for shard in shards)
    index = json.loads((tmp_path / "ours" / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in weights.values())
    assert index["weight_map"] == {key: shard.name for shard in shards for key in load_file(shard)}
    again = load_folder(tmp_path / "ours", name, CPU)
    for key, tensor in load_folder(tmp_path / "published", name, CPU).state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key])


@pytest.mark.parametrize("name", WRITERS)
def test_a_trained_model_survives_its_checkpoint(name: str, tmp_path: Path) -> None:
    """If it fails, a full fine-tuning of a published model does not survive a round."""
    WRITERS[name](tmp_path / "published")
    denoiser = load_folder(tmp_path / "published", name, CPU)
    optimizer = torch.optim.AdamW(denoiser.parameters(), 1e-2)
    denoiser.head().logits(denoiser(torch.tensor([[9, 10, 11]]))).square().sum().backward()
    optimizer.step()
    state = checkpoint.base_state(denoiser)
    assert state.record.family == name
    loaded = checkpoint.load(checkpoint.save(tmp_path / "policy", state), CPU).denoiser
    found, expected = loaded.state_dict(), denoiser.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)
    assert loaded.encode("the 12") == denoiser.encode("the 12")
    again = checkpoint.save(tmp_path / "again", checkpoint.load(tmp_path / "policy", CPU))
    assert files(again) == files(tmp_path / "policy")


def test_stock_classes_read_what_is_written(tmp_path: Path) -> None:
    """If it fails, Dream's layout, which is a Qwen2's, is written otherwise."""
    write_dream(tmp_path / "published")
    (tmp_path / "ours").mkdir()
    denoiser = load_folder(tmp_path / "published", "dream", CPU)
    denoiser.save(tmp_path / "ours", shard_bytes=60_000)
    edit_json(tmp_path / "ours/config.json", model_type="qwen2", torch_dtype="float32")
    stock = Qwen2ForCausalLM.from_pretrained(tmp_path / "ours").state_dict()
    assert all(torch.equal(stock[key], tensor) for key, tensor in denoiser.network.state_dict().items())


def test_a_tied_head_may_be_stored_if_it_is_the_embedding(tmp_path: Path) -> None:
    """If it fails, models whose writer stored the tied head are refused, or one with two different tables is not."""
    path = tmp_path / "model.safetensors"
    write_qwen3_mdlm(tmp_path)
    edit_tensors(path, lambda found: found.update({"lm_head.weight": found["model.embed_tokens.weight"].clone()}))
    denoiser = load_folder(tmp_path, "qwen3_mdlm", CPU)
    assert denoiser.network.lm_head.weight is denoiser.network.model.embed_tokens.weight
    edit_tensors(path, lambda found: found["lm_head.weight"].mul_(2))
    with pytest.raises(CheckpointError, match=r"differs from the embedding, but config\.json says that they are tied"):
        load_folder(tmp_path, "qwen3_mdlm", CPU)


DOWN = "model.transformer.blocks.1.ff_out.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda found: found.pop(DOWN), f"lacks 1 tensors, first .'{DOWN}'"),
        (lambda found: found.update({"model.extra.weight": torch.zeros(3)}), "surplus 1 tensors, first .'model.extra"),
        (lambda found: found.update({DOWN.replace("1", "2"): torch.zeros(3)}), "surplus 1 tensors"),
        (lambda found: found.update({DOWN.replace("weight", "bias"): torch.zeros(32)}), "surplus 1 tensors"),
        (lambda found: found.update({DOWN: found[DOWN][:-1].clone()}), rf"{DOWN}, which is \[31, 48\] instead of"),
        (lambda found: found.update({DOWN: found[DOWN].T.contiguous()}), rf"{DOWN}, which is \[48, 32\] instead of"),
        (lambda found: found.update({DOWN: found[DOWN].to(torch.int8)}), f"{DOWN} is I8, but weights are one of"),
        (lambda found: found.pop("model.transformer.ff_out.weight"), "lacks 1 tensors"),
    ],
    ids=["lacking", "surplus", "surplus layer", "bias", "shape", "transposed", "quantised", "no head"],
)
def test_tensors_that_do_not_fit_are_refused(
    change: Callable[[dict[str, Tensor]], object], said: str, tmp_path: Path
) -> None:
    """If it fails, a model is partly random, partly dropped, or read through another layout."""
    write_llada(tmp_path)
    edit_tensors(tmp_path / "model.safetensors", change)
    with pytest.raises(CheckpointError, match=said):
        load_folder(tmp_path, "llada", CPU)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("../model-00001-of-00003.safetensors", "names '../model-00001"),
        ("/etc/passwd", "names '/etc/passwd'"),
        ("pytorch_model.bin", "names 'pytorch_model.bin'"),
        ("model-00009-of-00003.safetensors", "model-00009-of-00003.safetensors is missing"),
        ("model-00003-of-00003.safetensors", "lacks the tensor|does not place there"),
    ],
)
def test_an_index_that_points_elsewhere_is_refused(place: str, said: str, tmp_path: Path) -> None:
    """If it fails, a downloaded index makes us read any file of the machine, or a pickle."""
    write_llada(tmp_path / "model", shards=3)
    path = tmp_path / "model" / INDEX
    content = json.loads(path.read_text())
    first = min(name for name, file in content["weight_map"].items() if file.startswith("model-00001"))
    content["weight_map"][first] = place
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=said):
        load_folder(tmp_path / "model", "llada", CPU)


def test_a_loaded_model_no_longer_depends_on_its_files(tmp_path: Path) -> None:
    """If it fails, a file that is overwritten or truncated changes a running policy, or ends it by a signal."""
    weights = write_llada(tmp_path)
    denoiser = load_folder(tmp_path, "llada", CPU)
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.write(bytes((tmp_path / "model.safetensors").stat().st_size))
    assert torch.equal(denoiser.network.model.embed_tokens.weight, weights["model.transformer.wte.weight"])


@pytest.mark.whole
def test_loading_holds_no_second_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a model that fits into memory does not load: 128 MiB of weights may cost that and the mapped file.

    The file is bfloat16 and the weights float32, so every tensor is converted; measured as the peak of a process.
    """
    code = """
import resource, sys, torch
from pathlib import Path
from tasks.gdsd.denoiser.load import load_folder
peaks = []
for name in ("small", "large"):
    load_folder(Path(sys.argv[1]) / name, "llada", torch.device("cpu"))
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(peaks[1] - peaks[0])
"""
    write_llada(tmp_path / "small")
    monkeypatch.setattr(official, "ROWS", 2**20)
    write_llada(tmp_path / "large", dtype=torch.bfloat16, embedding_size=2**20, weight_tying=True)
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    float32, stored = 2**20 * 32 * 4 / 2**20, 2**20 * 32 * 2 / 2**20  # MiB; the file is mapped while it is read
    assert float(done.stdout) < float32 + stored + 16


def test_pickled_weights_are_refused_with_their_conversion(tmp_path: Path) -> None:
    """If it fails, a person with an older model learns only that a file is missing, or is advised in vain."""
    WRITERS["dream"](tmp_path)
    expected = load_folder(tmp_path, "dream", CPU).state_dict()
    torch.save(load_file(tmp_path / WHOLE), tmp_path / "pytorch_model.bin")
    (tmp_path / WHOLE).unlink()
    with pytest.raises(
        CheckpointError, match=r"(?s)model.safetensors .*is missing. Its pytorch_model.bin is a pickle.*"
    ):
        load_folder(tmp_path, "dream", CPU)
    found = torch.load(tmp_path / "pytorch_model.bin", map_location="cpu", weights_only=True)
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, tmp_path / WHOLE)
    loaded = load_folder(tmp_path, "dream", CPU).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())
