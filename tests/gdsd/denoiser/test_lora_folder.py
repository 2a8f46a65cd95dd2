"""Adapter folders: others put them onto the models as their authors publish them, and they name their base truly."""

import json
import re
from pathlib import Path

import huggingface_hub
import pytest
import torch
from peft import PeftModel
from torch import Tensor

from tasks.gdsd.config.model_source import HubModel, ModelFolder
from tasks.gdsd.config.policy import AdapterConfig
from tasks.gdsd.denoiser import checkpoint
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.denoiser.load import load_source
from tasks.gdsd.errors import CheckpointError
from tests.gdsd.checkpoints import CPU, edit_json, trained
from tests.gdsd.denoiser.test_architectures import in_stock_names
from tests.gdsd.official import LAYERS, WRITERS, write_llada

REVISION = "0123456789abcdef0123456789abcdef01234567"
IDS = torch.tensor([[9, 10, 11, 12, 40]])


def tree(weights: dict[str, Tensor]) -> torch.nn.Module:
    """Stands for LLaDA's published class: its tree of modules, and like Dream's none of the methods of generation."""
    root = torch.nn.Module()
    for name, tensor in weights.items():
        *path, leaf, _ = name.split(".")
        place = root
        for part in path:
            if part not in place._modules:
                place.add_module(part, torch.nn.Module())
            place = place.get_submodule(part)
        is_map = tensor.dim() == 2 and leaf != "wte"
        module = torch.nn.Linear(*reversed(tensor.shape), bias=False) if is_map else torch.nn.Module()
        module.weight = torch.nn.Parameter(tensor)
        place.add_module(leaf, module)
    return root


def policy(model: Path, targets: list[str] | None = None) -> Denoiser:
    """A trained adapter on a pinned folder."""
    denoiser = load_source(ModelFolder(path=str(model)), CPU)
    values = {"rank": 4, "alpha": 6.0} | ({} if targets is None else {"targets": targets})
    denoiser.attach_adapter(AdapterConfig.model_validate(values), seed=0)
    trained(denoiser)
    return denoiser


def saved(folder: Path, denoiser: Denoiser) -> tuple[Path, dict[str, object]]:
    """A checkpoint, and the configuration of the adapter in it."""
    checkpoint.save(folder, checkpoint.base_state(denoiser))
    return folder, json.loads((folder / "adapter/adapter_config.json").read_text())


@pytest.mark.parametrize(
    ("targets", "official"),
    [
        (None, ["attn_out", "ff_out", "ff_proj", "k_proj", "q_proj", "up_proj", "v_proj"]),
        (["down_proj"], ["ff_out"]),
        (["o_proj", "gate_proj"], ["attn_out", "ff_proj"]),
    ],
    ids=str,
)
def test_peft_puts_an_adapter_onto_the_published_class_of_llada(
    targets: list[str] | None, official: list[str], tmp_path: Path
) -> None:
    """If it fails, a LLaDA trained here speaks only here: peft drops what it cannot place, or adapts the head as well.

    The head is `model.transformer.ff_out`, and the last map of a block `model.transformer.blocks.0.ff_out`. What peft
    adds to each weight has to be what is added here.
    """
    base = write_llada(tmp_path / "model")
    denoiser = policy(tmp_path / "model", targets)
    folder, config = saved(tmp_path / "policy", denoiser)
    assert config["target_modules"] == official
    published = PeftModel.from_pretrained(tree(base), folder / "adapter").merge_and_unload()
    denoiser.freeze_for_sampling()  # which adds the adapter to the weights
    ours = in_stock_names(published.state_dict())
    assert ours.keys() == denoiser.network.state_dict().keys()
    for name, weight in denoiser.network.state_dict().items():
        torch.testing.assert_close(ours[name], weight, atol=1e-5, rtol=1e-5)
    unchanged = in_stock_names(write_llada(tmp_path / "again"))
    adapted = [name for name in ours if not torch.equal(ours[name], unchanged[name])]
    assert len(adapted) == LAYERS * len(official) and not any("lm_head" in name for name in adapted)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks, transformers warns
@pytest.mark.parametrize("name", sorted(set(WRITERS) - {"llada"}))
def test_peft_puts_an_adapter_onto_a_stock_class(name: str, tmp_path: Path) -> None:
    """If it fails, an adapter of a family with a stock class's names says something else in peft than here."""
    WRITERS[name](tmp_path / "model")
    denoiser = policy(tmp_path / "model")
    folder, config = saved(tmp_path / "policy", denoiser)
    plain = load_source(ModelFolder(path=str(tmp_path / "model")), CPU).network
    stock = PeftModel.from_pretrained(plain, folder / "adapter").eval()
    with torch.no_grad():
        torch.testing.assert_close(stock(input_ids=IDS).logits, denoiser.network(input_ids=IDS).logits)
    assert config["exclude_modules"] is None and "gate_proj" in config["target_modules"]


def test_an_adapter_names_the_folder_of_its_base(tmp_path: Path) -> None:
    """If it fails, whoever gets the adapter has to guess on which weights it counts."""
    write_llada(tmp_path / "model")
    denoiser = policy(tmp_path / "model")
    folder, config = saved(tmp_path / "policy", denoiser)
    assert config["base_model_name_or_path"] == str(tmp_path / "model") and config["revision"] is None
    edit_json(folder / "adapter/adapter_config.json", base_model_name_or_path="..")
    with pytest.raises(CheckpointError, match=f"names another base, '..': here it counts on '{tmp_path}/model'"):
        checkpoint.load(folder, CPU)


def test_an_adapter_names_its_base_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, other tools fetch no base for the adapter, or one of another revision."""
    write_llada(tmp_path / REVISION)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path / REVISION))
    denoiser = load_source(HubModel(hub="GSAI-ML/LLaDA-8B-Base", revision=REVISION), CPU)
    denoiser.attach_adapter(AdapterConfig(rank=2), seed=0)
    folder, config = saved(tmp_path / "policy", denoiser)
    assert config["base_model_name_or_path"] == "GSAI-ML/LLaDA-8B-Base" and config["revision"] == REVISION
    assert checkpoint.load(folder, CPU).denoiser.has_adapter
    for values in ({"revision": None}, {"revision": "f" * 40}, {"base_model_name_or_path": "evil/base"}):
        edit_json(folder / "adapter/adapter_config.json", **(config | values))
        with pytest.raises(CheckpointError, match=f"another base.*here .* 'GSAI-ML/LLaDA-8B-Base' at '{REVISION}'"):
            checkpoint.load(folder, CPU)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"target_modules": ["o_proj"]}, "['o_proj'] are no linear maps of the blocks of llada; those are q_proj"),
        ({"target_modules": ["q_proj", 7]}, "[7] are no linear maps"),
        ({"exclude_modules": None}, "not supported: {'exclude_modules': None}"),
        ({"exclude_modules": ["model.transformer.blocks.0.ff_out"]}, "not supported: {'exclude_modules'"),
        ({"task_type": "CAUSAL_LM"}, "not supported: {'task_type': 'CAUSAL_LM'}"),
    ],
    ids=str,
)
def test_names_of_another_class_are_refused(values: dict[str, object], said: str, tmp_path: Path) -> None:
    """If it fails, peft reads an adapter otherwise than it is read here, and both go on."""
    write_llada(tmp_path / "model")
    folder, _ = saved(tmp_path / "policy", policy(tmp_path / "model"))
    edit_json(folder / "adapter/adapter_config.json", **values)
    with pytest.raises(CheckpointError, match=re.escape(said)):
        checkpoint.load(folder, CPU)
