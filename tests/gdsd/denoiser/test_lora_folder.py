"""Adapter folders: others put them onto the models as their authors publish them, and they name their base truly."""

import json
import re
from pathlib import Path

import huggingface_hub
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor

from tasks.gdsd.config.model_source import HubModel, ModelFolder
from tasks.gdsd.config.policy import AdapterConfig
from tasks.gdsd.denoiser import checkpoint
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.denoiser.load import load_source
from tasks.gdsd.errors import CheckpointError
from tests.gdsd import official_maths as maths
from tests.gdsd.checkpoints import CPU, edit_json, trained
from tests.gdsd.official import HEADS, INNER, LAYERS, ROWS, WIDTH, WRITERS, write_llada

REVISION = "0123456789abcdef0123456789abcdef01234567"
IDS = torch.tensor([[9, 10, 11, 12, 40]])


class Block(torch.nn.Module):
    """A block under the names of LLaDA's published class."""

    def __init__(self) -> None:
        super().__init__()
        self.attn_norm, self.ff_norm = torch.nn.RMSNorm(WIDTH), torch.nn.RMSNorm(WIDTH)
        self.q_proj, self.k_proj, self.v_proj, self.attn_out = (linear(WIDTH, WIDTH) for _ in range(4))
        self.ff_proj, self.up_proj, self.ff_out = linear(WIDTH, INNER), linear(WIDTH, INNER), linear(INNER, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        inner = maths.norm(x, self.attn_norm.weight, 1e-5)
        queries, keys = (maths.rotate(maths.split(map_(inner), HEADS), 500000.0) for map_ in (self.q_proj, self.k_proj))
        seen = torch.ones(x.shape[:2], dtype=torch.bool)
        x = x + self.attn_out(maths.attend(queries, keys, maths.split(self.v_proj(inner), HEADS), seen))
        inner = maths.norm(x, self.ff_norm.weight, 1e-5)
        return x + self.ff_out(torch.nn.functional.silu(self.ff_proj(inner)) * self.up_proj(inner))


class PublishedLLaDA(torch.nn.Module):
    """Stands for LLaDA's published class: its tree of modules, and like Dream's none of the methods of generation."""

    def __init__(self) -> None:
        super().__init__()
        self.model = torch.nn.Module()
        self.model.transformer = torch.nn.ModuleDict(
            {
                "wte": torch.nn.Embedding(ROWS, WIDTH),
                "blocks": torch.nn.ModuleList(Block() for _ in range(LAYERS)),
                "ln_f": torch.nn.RMSNorm(WIDTH),
                "ff_out": linear(WIDTH, ROWS),
            }
        )

    def forward(self, input_ids: Tensor) -> Tensor:
        parts = self.model.transformer
        x = parts["wte"](input_ids)
        for block in parts["blocks"]:
            x = block(x)
        return parts["ff_out"](maths.norm(x, parts["ln_f"].weight, 1e-5))


def linear(inputs: int, outputs: int) -> torch.nn.Linear:
    return torch.nn.Linear(inputs, outputs, bias=False)


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


@pytest.mark.parametrize("targets", [None, ["down_proj"], ["o_proj", "gate_proj"]], ids=str)
def test_peft_puts_an_adapter_onto_the_published_class_of_llada(targets: list[str] | None, tmp_path: Path) -> None:
    """If it fails, a LLaDA trained here speaks only here: peft drops what it cannot place, or adapts the head as well.

    The head is `model.transformer.ff_out`, and the last map of a block `model.transformer.blocks.0.ff_out`.
    """
    write_llada(tmp_path / "model")
    denoiser = policy(tmp_path / "model", targets)
    folder, config = saved(tmp_path / "policy", denoiser)
    published = PublishedLLaDA()
    published.load_state_dict(load_file(tmp_path / "model/model.safetensors"))
    published = published.double()
    with torch.no_grad():
        base = published(IDS)
        stock = PeftModel.from_pretrained(published, folder / "adapter").eval()
        ours = denoiser.head().logits(denoiser(IDS)).double()
        torch.testing.assert_close(stock(input_ids=IDS), ours, atol=2e-4, rtol=1e-4)
        assert (ours - base).abs().max() > 0.1, "the adapter matters, so the test means something"
        with stock.disable_adapter():
            assert torch.equal(stock(input_ids=IDS), base)
    adapted = {name for name, module in stock.get_base_model().named_modules() if hasattr(module, "lora_A")}
    assert len(adapted) == LAYERS * (7 if targets is None else len(targets))
    assert (
        config["target_modules"]
        == {
            None: ["attn_out", "ff_out", "ff_proj", "k_proj", "q_proj", "up_proj", "v_proj"],
            "down_proj": ["ff_out"],
            "o_proj": ["attn_out", "ff_proj"],
        }[targets and targets[0]]
    )


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
