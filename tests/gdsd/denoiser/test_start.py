"""Training a policy further: what a run begins with where its model is an earlier run's policy."""

import json
import re
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml
from torch import Tensor

from tasks.gdsd.config.model_source import OPTIMIZER, HubModel, ModelFolder, digest
from tasks.gdsd.config.policy import AdapterConfig, PolicyConfig
from tasks.gdsd.denoiser import checkpoint, start
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.denoiser.load import load_source
from tasks.gdsd.errors import CheckpointError, ConfigError
from tests.gdsd.checkpoints import CPU, damage, edit_json, trained
from tests.gdsd.conftest import build
from tests.gdsd.official import WRITERS, widened, write_llada

ROOT = Path(__file__).resolve().parents[3]
REVISION = "0123456789abcdef0123456789abcdef01234567"
ADAPTER = AdapterConfig(rank=4, alpha=6.0, targets=["v_proj", "down_proj"])
IDS = torch.tensor([[9, 10, 11, 12]])
KINDS = ["tiny", *WRITERS]


def earlier(kind: str, folder: Path, adapter: AdapterConfig | None = ADAPTER) -> tuple[Path, Denoiser]:
    """The policy of an earlier run, as its folder has it and as it is; its base is small and random."""
    if kind != "tiny":
        WRITERS[kind](folder / "model")
    bits = None if adapter is None else adapter.base_bits
    model = ModelFolder(path=str(folder / "model")) if kind != "tiny" else None
    denoiser = build() if model is None else load_source(model, CPU, torch.float32, bits=bits)
    if adapter is not None:
        denoiser.attach_adapter(adapter, 0)
    state = trained(denoiser)
    record = state.record.model_copy(update={"family": denoiser.family.name})
    return checkpoint.save(folder / "policy", checkpoint.PolicyState(denoiser, record, state.optimizer)), denoiser


def configured(folder: Path, **fields: object) -> PolicyConfig:
    return PolicyConfig.model_validate_json(json.dumps({"model": {"path": str(folder)}} | fields))


def continuing(folder: Path, adapter: AdapterConfig = ADAPTER, **changed: object) -> PolicyConfig:
    return configured(folder, stored_adapter="continue", adapter=adapter.model_dump() | changed)


@torch.no_grad()
def logits(denoiser: Denoiser) -> Tensor:
    found: Tensor = denoiser.head().logits(denoiser.eval()(IDS))
    return found


def saved(begun: start.Start, folder: Path) -> Denoiser:
    """What the rounds read of it."""
    return checkpoint.load(checkpoint.save(folder, checkpoint.base_state(*begun)), CPU).denoiser


@pytest.mark.parametrize("form", ["policy", "adapter"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_goes_on_as_it_was(kind: str, form: str, tmp_path: Path) -> None:
    """If it fails, training further begins with another policy than the one that was trained."""
    folder, policy = earlier(kind, tmp_path)
    if form == "adapter":
        if kind == "tiny":
            with pytest.raises(ConfigError, match=f"base lies beside it; name {folder} instead"):
                continuing(folder / "adapter")
            return
        folder = shutil.copytree(folder / "adapter", tmp_path / "alone")
    config = continuing(folder)
    begun = start.load(config, CPU)
    assert isinstance(config.model, ModelFolder) and begun.parent == config.model.sha256
    assert torch.equal(logits(begun.denoiser), logits(policy))
    assert {name for name, _ in begun.denoiser.trainable()} == {name for name, _ in policy.trainable()}
    again = saved(begun, tmp_path / "begun")
    assert torch.equal(logits(again), logits(policy)) and again.has_adapter
    assert (tmp_path / "begun/base.json").exists() == (kind != "tiny"), "a published base is named, not copied"
    assert start.outline(config).encode("1") == policy.encode("1")


@pytest.mark.parametrize("adapter", [None, AdapterConfig(rank=2)], ids=["all weights", "a fresh adapter"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_adapter_is_the_same_policy_to_rounding(
    kind: str, adapter: AdapterConfig | None, tmp_path: Path
) -> None:
    """If it fails, what was learned is lost with the adapter, or what is trained next is not what is configured."""
    folder, policy = earlier(kind, tmp_path)
    given = None if adapter is None else adapter.model_dump()
    begun = start.load(configured(folder, stored_adapter="merge", adapter=given), CPU)
    assert begun.parent is None
    for denoiser in (begun.denoiser, saved(begun, tmp_path / "begun")):
        torch.testing.assert_close(logits(denoiser), logits(policy), atol=1e-4, rtol=1e-4)
        trainable = {name for name, _ in denoiser.trainable()}
        if adapter is None:
            assert trainable == {name for name, _ in denoiser.named_parameters()}
        else:
            assert all(".lora_" in name for name in trainable)
            with denoiser.base_only():
                torch.testing.assert_close(logits(denoiser), logits(policy), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_an_earlier_run_are_a_model(kind: str, tmp_path: Path) -> None:
    """If it fails, a policy whose own weights were trained cannot be trained further."""
    folder, policy = earlier(kind, tmp_path, None)
    begun = start.load(configured(folder, adapter={"rank": 2}), CPU)
    assert torch.equal(logits(begun.denoiser), logits(policy)) and begun.denoiser.has_adapter


def test_a_merged_policy_that_was_trained_further_goes_on_too(tmp_path: Path) -> None:
    """If it fails, there is no third run: merged weights lie beside the adapter, and no pinned model is its base."""
    folder, _ = earlier("llada", tmp_path)
    second = start.load(configured(folder, stored_adapter="merge", adapter=ADAPTER.model_dump()), CPU).denoiser
    state = trained(second)
    place = checkpoint.save(tmp_path / "second", checkpoint.base_state(state.denoiser))
    assert torch.equal(logits(start.load(continuing(place), CPU).denoiser), logits(second))


def test_half_precision_is_rounded_once(tmp_path: Path) -> None:
    """If it fails, merging into half precision loses more than the precision does."""
    folder, _ = earlier("llada", tmp_path)
    half = checkpoint.load(folder, CPU, dtype=torch.bfloat16).denoiser
    before = {name: weight.clone() for name, weight in half.network.state_dict().items()}
    half.merge_adapter()
    name = "model.layers.0.self_attn.v_proj"
    down, up = (before[f"{name}.lora_{part}.default.weight"] for part in "AB")
    exact = before[f"{name}.base_layer.weight"].float() + up * 1.5 @ down
    assert torch.equal(half.network.state_dict()[f"{name}.weight"], exact.bfloat16())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["tiny", "dream"])
def test_the_reference_is_what_the_run_began_with(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """If it fails, a run that goes on is pulled back to the base of the run before it, and unlearns what that taught.

    The reference is the earlier policy bit for bit, also after the own adapter has moved, and is neither trained nor
    saved.
    """
    folder, _ = earlier(kind, tmp_path)
    policy = checkpoint.load(folder, CPU, dtype=dtype).denoiser
    expected = logits(policy)
    names = {*policy.state_dict()}
    policy.refer_to(folder / "adapter")
    with policy.base_only():
        assert torch.equal(logits(policy), expected)
    trained(policy)
    with policy.base_only():
        assert torch.equal(logits(policy), expected)
    assert not torch.equal(logits(policy), expected) and {*policy.state_dict()} == names
    edit_json(folder / "adapter/adapter_config.json", lora_alpha=7.0)
    with pytest.raises(CheckpointError, match=r"alpha is 7\.0 there and 6\.0 here"):
        policy.refer_to(folder / "adapter")


def test_four_bits_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, an adapter goes on upon another base than it was trained on."""
    pytest.importorskip("bitsandbytes")
    widened(monkeypatch)
    adapter = ADAPTER.model_copy(update={"base_bits": 4})
    folder, policy = earlier("llada", tmp_path, adapter)
    alone = shutil.copytree(folder / "adapter", tmp_path / "alone")  # which does not say in how many bits its base was
    for place in (folder, alone):
        assert torch.equal(logits(start.load(continuing(place, adapter), CPU).denoiser), logits(policy))
    expected = logits(policy)
    policy.refer_to(folder / "adapter")
    with policy.base_only():
        assert torch.equal(logits(policy), expected)


def test_four_bits_are_neither_left_nor_merged(tmp_path: Path) -> None:
    """If it fails, an adapter goes on upon another base than it was trained on, or becomes part of one."""
    folder, _ = earlier("llada", tmp_path)
    with pytest.raises(ConfigError, match="base_bits is None there and 4 here"):
        start.outline(continuing(folder, base_bits=4))
    edit_json(folder / "base.json", bits=4)
    with pytest.raises(ConfigError, match="base_bits is 4 there and None here"):
        start.outline(continuing(folder))
    with pytest.raises(ConfigError, match=r"trained on a base of 4 bits, which has no room for it; use 'continue'"):
        start.outline(configured(folder, stored_adapter="merge"))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "has an adapter; set policy.stored_adapter to 'continue' .*, or to 'merge'"),
        ({"adapter": {"rank": 2}}, "has an adapter; set policy.stored_adapter"),
        ({"stored_adapter": "continue"}, "`adapter` is left out, so all weights would be trained"),
        ({"stored_adapter": "continue", "adapter": {"rank": 8}}, "rank is 4 there and 8 here; alpha is 6.0 there"),
        (
            {"stored_adapter": "continue", "adapter": {"rank": 4, "alpha": 6.0, "targets": ["v_proj"]}},
            r"targets is \['down_proj', 'v_proj'\] there and \['v_proj'\] here\. Make them equal, or use 'merge'",
        ),
        ({"stored_adapter": "merge", "adapter": {"base_bits": 4}}, "makes new weights.*leave base_bits out"),
        ({"stored_adapter": "forget"}, "stored_adapter: got 'forget'"),
    ],
    ids=str,
)
def test_what_does_not_fit_the_stored_adapter_is_refused(fields: dict[str, object], said: str, tmp_path: Path) -> None:
    """If it fails, the stored adapter is dropped without a word, or another one is trained than the configured one."""
    folder, _ = earlier("llada", tmp_path)
    with pytest.raises(ConfigError, match=said):
        start.outline(configured(folder, **fields))


def test_where_there_is_no_adapter_none_goes_on(tmp_path: Path) -> None:
    """If it fails, a mistyped folder trains something else than was meant."""
    write_llada(tmp_path)
    with pytest.raises(ConfigError, match=r"stored_adapter is 'merge', but .* has no adapter; leave it out"):
        start.outline(configured(tmp_path, stored_adapter="merge"))
    with pytest.raises(ConfigError, match="stored_adapter 'merge' is for a model with an adapter, and there is none"):
        PolicyConfig.model_validate_json(json.dumps({"stored_adapter": "merge"}))


def test_the_example_of_the_page_goes_on(tmp_path: Path) -> None:
    """If it fails, who follows docs/models.md is refused, or trains a fresh adapter."""
    (written,) = re.findall(r"^```yaml\n(.*?)^```$", (ROOT / "docs/models.md").read_text(), re.DOTALL | re.MULTILINE)
    values = yaml.safe_load(written)["policy"]
    adapter = AdapterConfig.model_validate(values["adapter"] | {"alpha": float(values["adapter"]["alpha"])})
    folder, policy = earlier("tiny", tmp_path, adapter)
    values["model"] = {"path": str(folder)}
    begun = start.load(PolicyConfig.model_validate_json(json.dumps(values)), CPU)
    assert torch.equal(logits(begun.denoiser), logits(policy))


# Pins


@pytest.mark.parametrize("form", ["policy", "adapter"])
def test_a_pin_sees_the_adapter_and_its_base(form: str, tmp_path: Path) -> None:
    """If it fails, another adapter, or the same one on another base, is trained under the name of the pinned one."""
    folder, _ = earlier("llada", tmp_path)
    if form == "adapter":
        folder = shutil.copytree(folder / "adapter", tmp_path / "alone")
    pin, config = digest(folder), continuing(folder)
    (folder / OPTIMIZER).write_bytes(b"not read, so not counted")
    (folder / "optimizer.pt").write_bytes(b"nor is this")
    assert digest(folder) == pin
    weights = next(folder.rglob("adapter_model.safetensors"))
    before = weights.read_bytes()
    damage(weights, "garbage")
    assert digest(folder) != pin
    weights.write_bytes(before)
    start.outline(config)
    write_llada(tmp_path / "model", seed=1)
    with pytest.raises(CheckpointError, match="was pinned and is not to be found"):
        start.load(config, CPU)


@pytest.mark.parametrize("adapter", [None, ADAPTER], ids=["all weights", "adapter"])
def test_a_damaged_policy_is_refused(adapter: AdapterConfig | None, tmp_path: Path) -> None:
    """If it fails, a copy that was cut short is pinned as it is, and trained further."""
    folder, _ = earlier("tiny", tmp_path, adapter)
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        start.load(configured(folder) if adapter is None else continuing(folder), CPU)


@pytest.mark.parametrize("form", ["policy", "adapter"])
def test_a_policy_on_the_hub_goes_on(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, what was pushed can be looked at and not be trained. Its base has moved, and is found by its pin."""
    folder, policy = earlier("llada", tmp_path)
    there = shutil.copytree(folder if form == "policy" else folder / "adapter", tmp_path / "hub" / REVISION)
    (tmp_path / "models").mkdir()
    (tmp_path / "model").rename(tmp_path / "models/model")
    edit_json(next(there.rglob("adapter_config.json")), base_model_name_or_path="model")  # as it is pushed
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(there))
    model = HubModel(hub="me/policy", revision=REVISION)
    config = continuing(folder).model_copy(update={"model": model})
    with pytest.raises(CheckpointError, match="GDSD_MODELS"):
        start.outline(config)
    monkeypatch.setenv("GDSD_MODELS", str(tmp_path / "models"))
    begun = start.load(config, CPU)
    assert begun.parent == REVISION and torch.equal(logits(begun.denoiser), logits(policy))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"base_model_name_or_path": "org/model"}, "names the base 'org/model' without a revision.*`revision`"),
        ({"base_model_name_or_path": "org/model", "revision": "main"}, "names no base on the hub"),
        ({"base_model_name_or_path": None}, "names the base None"),
        ({"peft_type": "IA3"}, "does not describe a LoRA adapter"),
        ({"target_modules": ["query_key_value"]}, r"\['query_key_value'\] are no linear maps of the blocks of llada"),
        ({"use_dora": True}, "asks for what is not supported: {'use_dora': True}"),
    ],
    ids=str,
)
def test_an_adapter_of_others_is_refused_by_name(values: dict[str, object], said: str, tmp_path: Path) -> None:
    """If it fails, an adapter is read on a base that may change, or otherwise than its authors mean it."""
    folder, _ = earlier("llada", tmp_path)
    alone = shutil.copytree(folder / "adapter", tmp_path / "alone")
    edit_json(alone / "adapter_config.json", **values)
    with pytest.raises((CheckpointError, ConfigError), match=said):
        start.outline(continuing(alone))
