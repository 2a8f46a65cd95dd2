"""Adapters: the base inside is untouched, the arithmetic is LoRA's, and a folder with another one is refused."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaForCausalLM

from tasks.gdsd.config.policy import AdapterConfig
from tasks.gdsd.denoiser import checkpoint
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.errors import CheckpointError, ConfigError
from tasks.gdsd.files import SUMS, digest
from tests.gdsd.checkpoints import CPU, edit_json, edit_tensors, trained, unseal
from tests.gdsd.epochs import configured, run, same

CONFIG = AdapterConfig(rank=4, alpha=6.0)
DOWN = "model.layers.1.mlp.down_proj"


def adapt(denoiser: Denoiser, config: AdapterConfig = CONFIG, seed: int = 0) -> Denoiser:
    denoiser.attach_adapter(config, seed)
    return denoiser


def read(denoiser: Denoiser) -> Tensor:
    """Logits of a prompt, differentiable."""
    return denoiser.head().logits(denoiser(torch.tensor([denoiser.encode("12.4=")])))


def drawn(denoiser: Denoiser) -> dict[str, Tensor]:
    """The adapter's weights, by parameter."""
    return {name: parameter.detach().clone() for name, parameter in denoiser.trainable()}


@pytest.fixture
def folder(denoiser: Denoiser, tmp_path: Path) -> Path:
    """A checkpoint whose adapter has been trained."""
    return checkpoint.save(tmp_path / "policy", trained(adapt(denoiser)))


# Arithmetic


def test_only_the_adapter_is_trained(denoiser: Denoiser, other_denoiser: Denoiser) -> None:
    """If it fails, the base drifts, and with it the reference policy; or more or less is trained than was configured.

    Two blocks have seven maps each, with A and B for each target. Without an adapter all weights are trained.
    """
    assert denoiser.trainable() == list(denoiser.named_parameters())
    assert len(adapt(denoiser).trainable()) == 2 * 7 * 2
    names = [name for name, _ in adapt(other_denoiser, AdapterConfig(targets=["up_proj", "q_proj"])).trainable()]
    assert len(names) == 2 * 2 * 2 and all(re.search(r"\.(q|up)_proj\.lora_", name) for name in names)
    before = {name: parameter.detach().clone() for name, parameter in denoiser.named_parameters()}
    trained(denoiser)
    moved = {name for name, parameter in denoiser.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {name for name, _ in denoiser.trainable()}
    assert moved == {name for name in before if ".lora_" in name}
    assert moved == {name for name, parameter in denoiser.named_parameters() if parameter.requires_grad}


# The base inside


def test_the_base_inside_is_the_base_bit_for_bit(denoiser: Denoiser) -> None:
    """If it fails, the reference policy moves with training, and the pull towards it weakens without a sign."""
    base = read(denoiser)
    trained(adapt(denoiser))
    after = read(denoiser)
    assert not torch.equal(after, base)
    with denoiser.base_only():
        with denoiser.base_only():
            pass
        assert torch.equal(read(denoiser), base), "leaving the inner one must not switch the adapter on"
    with pytest.raises(KeyboardInterrupt), denoiser.base_only():
        raise KeyboardInterrupt
    assert torch.equal(read(denoiser), after)
    assert all(parameter.requires_grad for _, parameter in denoiser.trainable())


def test_there_is_no_base_without_an_adapter(denoiser: Denoiser) -> None:
    """If it fails, the trained policy is taken for its own reference; or a second adapter buries the first."""
    with pytest.raises(ValueError, match="no adapter"), denoiser.base_only():
        pass
    adapt(denoiser)
    with pytest.raises(ValueError, match="already"):
        adapt(denoiser)


def test_a_frozen_head_is_kept_until_it_changes(denoiser: Denoiser) -> None:
    """If it fails, what a head remembers is computed anew in every call, or is of weights that are gone."""
    assert denoiser.head() is not denoiser.head(), "a head in training must not remember"
    first = adapt(denoiser).head()
    assert denoiser.head() is first
    with torch.no_grad():
        denoiser.network.lm_head.weight.mul_(2)
    second = denoiser.head()
    assert second is denoiser.head() is not first
    denoiser.to(torch.float64)
    third = denoiser.head()
    assert third is denoiser.head() is not second


# Seeds


def test_equal_seeds_draw_equal_adapters(denoiser: Denoiser) -> None:
    """If it fails, a run with an adapter is not reproducible, or two maps start alike.

    A is uniform between -1 / sqrt(n) and 1 / sqrt(n) for n inputs, as peft draws it: of 64 numbers and more, the
    largest is above half of that bound except once in 2 ** 64.
    """
    torch.manual_seed(0)
    first = drawn(adapt(copy.deepcopy(denoiser)))
    torch.manual_seed(1)
    again, other = drawn(adapt(copy.deepcopy(denoiser))), drawn(adapt(copy.deepcopy(denoiser), seed=1))
    assert first.keys() == again.keys() and all(torch.equal(first[name], again[name]) for name in first)
    sides = {side: [name for name in first if f"lora_{side}" in name] for side in "AB"}
    assert all(not first[name].any() for name in sides["B"])
    assert all(not torch.equal(first[name], other[name]) for name in sides["A"])
    assert len({first[name].flatten()[0].item() for name in sides["A"]}) == len(sides["A"])
    together = drawn(adapt(copy.deepcopy(denoiser), AdapterConfig(targets=["q_proj", "o_proj"])))
    alone = drawn(adapt(denoiser, AdapterConfig(targets=["o_proj"])))
    assert all(torch.equal(together[name], alone[name]) for name in alone), "whatever else is adapted"
    for name in sides["A"]:
        assert 0.5 < first[name].abs().max() * first[name].shape[1] ** 0.5 <= 1


# Epochs


def test_the_base_inside_serves_as_the_reference(denoiser: Denoiser, table: pa.Table) -> None:
    """If it fails, the pull towards the base goes elsewhere than with the base loaded from its own checkpoint.

    Both give the same scores bit for bit, so the same updates.
    """
    base = checkpoint.base_state(copy.deepcopy(denoiser))
    state = trained(adapt(denoiser))
    config = configured({"reference_weight": 0.5})
    inside, beside = run(state, table, config), run(state, table, config, base)
    assert same(inside[0], beside[0])
    assert not same(inside[0], run(state, table)[0]), "the reference matters, so the test means something"


def test_rounds_go_on_from_disk(denoiser: Denoiser, table: pa.Table, tmp_path: Path) -> None:
    """If it fails, a run with an adapter does not survive its first round, or forgets its moments between rounds."""
    first, _ = run(checkpoint.base_state(adapt(denoiser)), table)
    assert {name.rsplit(".", 1)[0] for name in first.optimizer} == {name for name, _ in denoiser.trainable()}
    loaded = checkpoint.load(checkpoint.save(tmp_path / "policy", first), CPU)
    assert same(run(first, table, round_index=1)[0], run(loaded, table, round_index=1)[0])
    with first.denoiser.base_only(), denoiser.base_only():
        assert torch.equal(read(first.denoiser), read(denoiser))


# At rest


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks, transformers warns
def test_the_peft_library_reads_the_same_policy(folder: Path, denoiser: Denoiser) -> None:
    """If it fails, nobody else can use a trained adapter, or it says something else to them."""
    base = LlamaForCausalLM.from_pretrained(folder)
    stock = PeftModel.from_pretrained(base, folder / "adapter").eval()
    ids = torch.tensor([denoiser.encode("12.4=")])
    with torch.no_grad():
        torch.testing.assert_close(stock(input_ids=ids).logits, read(denoiser), atol=1e-6, rtol=1e-6)
        with stock.disable_adapter(), denoiser.base_only():
            torch.testing.assert_close(stock(input_ids=ids).logits, read(denoiser), atol=1e-6, rtol=1e-6)


def test_the_base_beside_the_adapter_keeps_its_bytes(denoiser: Denoiser, tmp_path: Path) -> None:
    """If it fails, the adapter does not fit the published base, or training leaked into its files."""
    base = checkpoint.save(tmp_path / "base", checkpoint.base_state(denoiser))
    policy = checkpoint.save(tmp_path / "policy", trained(adapt(denoiser)))
    for path in base.iterdir():
        if path.name not in ("gdsd.json", "optimizer.safetensors", SUMS):
            assert path.read_bytes() == (policy / path.name).read_bytes(), path.name
    surplus = {path.relative_to(policy).as_posix() for path in policy.rglob("*") if path.is_file()} - {
        path.name for path in base.iterdir()
    }
    assert surplus == {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"}
    slots = load_file(policy / "optimizer.safetensors")
    assert slots and all(".lora_" in name for name in slots), "frozen weights have no moments to keep"


def test_an_adapter_names_no_place_and_no_order(denoiser: Denoiser, tmp_path: Path) -> None:
    """If it fails, equal policies have two digests: by where they were made, or by how a set happened to be ordered."""
    folders = []
    for index, targets in enumerate([["v_proj", "k_proj", "up_proj"], ["up_proj", "v_proj", "k_proj"]]):
        policy = adapt(copy.deepcopy(denoiser), AdapterConfig(targets=targets))
        folders.append(checkpoint.save(tmp_path / str(index) / "policy", trained(policy)))
    assert digest(folders[0]) == digest(folders[1])
    values = json.loads((folders[0] / "adapter/adapter_config.json").read_text())
    assert values["target_modules"] == ["k_proj", "up_proj", "v_proj"]
    assert values["base_model_name_or_path"] == ".."


# Damage


def test_a_lost_or_surplus_adapter_is_refused(folder: Path) -> None:
    """If it fails, the base is evaluated as if it were the trained policy, or a stranger's adapter is taken along."""
    (folder / "adapter").rename(folder.parent / "lost")
    with pytest.raises(CheckpointError, match=r"adapter_config\.json is missing"):
        checkpoint.load(folder, CPU)
    unseal(folder / "gdsd.json")
    with pytest.raises(CheckpointError, match=r"no adapter, but gdsd\.json"):
        checkpoint.load(folder, CPU)
    (folder.parent / "lost").rename(folder / "adapter")
    edit_json(folder / "gdsd.json", adapter=False)
    with pytest.raises(CheckpointError, match=r"an adapter, but gdsd\.json"):
        checkpoint.load(folder, CPU)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, name: tensors.update({name: tensors[name][:-1].clone()}),
        lambda tensors, name: tensors.update({name: tensors[name].half()}),
        lambda tensors, name: tensors.pop(name),
        lambda tensors, name: tensors.update({name.replace("layers.1", "layers.2"): tensors[name].clone()}),
        lambda tensors, name: tensors.update({"base_model.model.lm_head.weight": torch.zeros(3)}),
    ],
    ids=["shape", "dtype", "lacking", "surplus layer", "surplus weight"],
)
def test_tensors_that_do_not_fit_are_refused(change: Callable[[dict[str, Tensor], str], object], folder: Path) -> None:
    """If it fails, part of an adapter is random or dropped, or it replaces weights of the base."""
    path = folder / "adapter/adapter_model.safetensors"
    edit_tensors(path, lambda tensors: change(tensors, f"base_model.model.{DOWN}.lora_A.weight"))
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors does not fit"):
        checkpoint.load(folder, CPU)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"peft_type": "IA3"}, "not describe a LoRA adapter: peft_type is 'IA3'"),
        ({"peft_type": None}, "not describe a LoRA adapter"),
        ({"base_model_name_or_path": "evil/base"}, "another base, 'evil/base'"),
        ({"base_model_name_or_path": None}, "another base, None"),
        ({"target_modules": ["q_proj", "lm_head"]}, "lm_head"),
        ({"target_modules": "(a+)+$"}, "targets"),
        ({"target_modules": []}, "targets"),
        ({"target_modules": None}, "targets"),
        ({"r": 10**9}, "rank"),
        ({"r": "four"}, "rank"),
        ({"lora_alpha": 0}, "alpha"),
        ({"lora_alpha": float("nan")}, "alpha"),
        ({"r": 5}, "does not fit"),
        ({"target_modules": ["q_proj"]}, "does not fit"),
        ({"use_rslora": True}, "not supported: {'use_rslora': True}"),
        ({"lora_dropout": 0.5}, "not supported"),
        ({"modules_to_save": ["lm_head"]}, "not supported"),
        ({"rank_pattern": {"q_proj": 1}}, "not supported"),
        ({"auto_mapping": {"base_model_class": "Evil", "parent_library": "evil"}}, "not supported"),
        ({"of_a_later_version": True}, "not supported"),
    ],
    ids=str,
)
def test_a_configuration_of_another_adapter_is_refused(values: dict[str, object], said: str, folder: Path) -> None:
    """If it fails, an adapter is read as something else than what was trained, or costs all memory."""
    edit_json(folder / "adapter/adapter_config.json", **values)
    with pytest.raises(CheckpointError, match=re.escape(said)):
        checkpoint.load(folder, CPU)


def test_switches_of_a_later_peft_that_are_off_are_let_through(folder: Path) -> None:
    """If it fails, an update of peft makes every earlier policy, or every later one, unreadable."""
    edit_json(folder / "adapter/adapter_config.json", peft_version="9.9.9", use_novelty=False, novelty_config=None)
    assert checkpoint.load(folder, CPU).denoiser.has_adapter


def test_an_adapter_beside_the_weights_is_refused(folder: Path) -> None:
    """If it fails, transformers follows a file that nobody checked, and loads whatever it finds with it.

    transformers looks for adapter_config.json in the folder of a model, once peft is installed.
    """
    (folder / "adapter_config.json").write_bytes((folder / "adapter/adapter_config.json").read_bytes())
    with pytest.raises(CheckpointError, match=r"adapter_config\.json is out of place"):
        checkpoint.load(folder, CPU)


@pytest.mark.parametrize("name", ["network.lm_head.weight", f"network.{DOWN}.base_layer.weight"])
def test_moments_of_frozen_weights_are_refused(name: str, folder: Path, denoiser: Denoiser) -> None:
    """If it fails, the optimizer of a full fine-tuning is continued on an adapter."""
    moments = torch.zeros_like(dict(denoiser.named_parameters())[name])
    edit_tensors(
        folder / "optimizer.safetensors",
        lambda tensors: tensors.update(
            {f"{name}.exp_avg": moments, f"{name}.exp_avg_sq": moments.clone(), f"{name}.step": torch.zeros(())}
        ),
    )
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors does not fit"):
        checkpoint.load(folder, CPU)


# Configuration


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"rank": 0}, "rank: got 0"),
        ({"rank": 1025}, "<= 1024"),
        ({"alpha": 0}, "alpha: got 0"),
        ({"targets": []}, "targets"),
        ({"targets": ["lm_head"]}, "q_proj"),
        ({"targets": ["q_proj", "k_proj", "q_proj"]}, "q_proj more than once"),
        ({"dropout": 0.1}, "unknown key"),
    ],
    ids=str,
)
def test_impossible_adapters_are_refused(values: dict[str, object], said: str) -> None:
    """If it fails, a mistake in a configuration surfaces inside another library, or not at all."""
    with pytest.raises(ConfigError, match=said):
        AdapterConfig.model_validate_json(json.dumps(values))
