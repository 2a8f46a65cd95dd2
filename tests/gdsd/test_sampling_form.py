"""A policy that only samples: the same policy, with small updates kept, and nothing else to be had from it."""

import gc
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft.tuners.lora import Linear, LoraLayer
from torch import Tensor

from tasks.gdsd.config.model_source import ModelFolder
from tasks.gdsd.config.train import AdapterConfig
from tasks.gdsd.denoiser import checkpoint, sampling_form
from tasks.gdsd.denoiser.denoiser import Denoiser
from tests.gdsd.checkpoints import CPU
from tests.gdsd.official import WRITERS

IDS = torch.randint(10, 260, (4, 32), generator=torch.Generator().manual_seed(0))
FORMS: dict[str, Callable[[Denoiser], None]] = {
    "as trained": lambda denoiser: None,
    "added": lambda denoiser: add(denoiser),
    "merged": lambda denoiser: merge(denoiser),
    "frozen": lambda denoiser: denoiser.freeze_for_sampling(),
}


def adapted(model: Path, dtype: torch.dtype, ratio: float, rank: int = 4) -> Denoiser:
    """A policy whose adapter adds random matrices of a given size, relative to the weights."""
    denoiser = Denoiser.from_source(ModelFolder(path=str(model)), CPU, dtype)
    denoiser.attach_adapter(AdapterConfig(rank=rank, alpha=6.0), seed=0)
    source = torch.Generator().manual_seed(1)
    for layer in layers(denoiser).values():
        down, up = (part["default"].weight.data for part in (layer.lora_A, layer.lora_B))
        up.normal_(generator=source)
        added = layer.scaling["default"] * up @ down
        up.mul_(ratio * layer.get_base_layer().weight.float().norm() / added.norm())
    return denoiser


def layers(denoiser: Denoiser) -> dict[str, LoraLayer]:
    return {name: layer for name, layer in denoiser.network.named_modules() if isinstance(layer, LoraLayer)}


def merge(denoiser: Denoiser) -> None:
    """What others do: adds the adapter to the weights, rounded to their precision."""
    for name, layer in layers(denoiser).items():
        layer.merge()
        denoiser.network.set_submodule(name, layer.get_base_layer())


def add(denoiser: Denoiser) -> None:
    """What others do: adds B A x to a rounded W x."""
    for layer in layers(denoiser).values():
        layer.__class__ = Linear


@torch.no_grad()
def logits(denoiser: Denoiser) -> Tensor:
    return denoiser.head().logits(denoiser(IDS)).float()


def surviving(model: Path, form: str, ratio: float, rank: int = 4) -> tuple[float, float]:
    """Returns the share of the adapter's effect on the logits that a form in bfloat16 keeps, and its relative error.

    The effect is that of the same weights, adapter and inputs in float32. The share is the part along it, in which
    rounding that has no direction averages out; the error counts all rounding.
    """
    exact, rounded = (adapted(model, dtype, ratio, rank) for dtype in (torch.float32, torch.bfloat16))
    effects = []
    for denoiser, settle in ((exact, FORMS["merged"]), (rounded, FORMS[form])):
        with denoiser.base_only():
            base = logits(denoiser)
        settle(denoiser)
        effects.append(logits(denoiser) - base)
    true, found = effects
    return float((found * true).sum() / true.square().sum()), float((found - true).norm() / true.norm())


@pytest.fixture(params=WRITERS)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A published model, of weights that bfloat16 can hold."""
    WRITERS[request.param](tmp_path / "model", dtype=torch.bfloat16)
    return tmp_path / "model"


def test_a_frozen_policy_is_the_same_policy(model: Path) -> None:
    """If it fails, rollouts and evaluations are of another policy than the one that is trained."""
    denoiser = adapted(model, torch.float32, ratio=0.3)
    with denoiser.base_only():
        base = logits(denoiser)
    before = logits(denoiser)
    denoiser.freeze_for_sampling()
    torch.testing.assert_close(logits(denoiser), before, atol=1e-4, rtol=1e-4)
    assert (before - base).abs().max() > 1, "the adapter matters, so the test means something"
    assert not layers(denoiser), "merged: an adapter costs nothing"


def test_in_half_precision_a_frozen_policy_stays_as_close(model: Path) -> None:
    """If it fails, the single sum is worse than the usual one: a large update must come out as well."""
    share, error = surviving(model, "frozen", 0.1)
    usual_share, usual_error = surviving(model, "added", 0.1)
    assert abs(share - 1) < 0.02 and abs(usual_share - 1) < 0.02
    assert error < 1.3 * usual_error + 0.01


def test_small_updates_survive_half_precision(model: Path) -> None:
    """If it fails, the first rounds sample from the base and score as it does: rounding drops what they have learned.

    An update of a 2000th of the weights, and of what they give, is below half of bfloat16's ulp, which is between
    2 ** -9 and 2 ** -8 of a number. Of one map and many inputs: there rounding without a direction averages out.
    """
    name = "model.layers.1.mlp.up_proj"
    inputs = torch.randn(4096, 32, generator=torch.Generator().manual_seed(2)).bfloat16()
    shares = {}
    for form, settle in FORMS.items():
        denoiser = adapted(model, torch.bfloat16, ratio=0.0005)
        layer = layers(denoiser)[name]
        added = layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        true = inputs.float() @ added.detach().T
        with torch.no_grad():
            base = layer.get_base_layer()(inputs).float()
            settle(denoiser)
            found = denoiser.network.get_submodule(name)(inputs).float() - base
        shares[form] = float((found * true).sum() / true.square().sum())
    assert shares["merged"] < 0.5 and shares["added"] < 0.5, shares
    assert abs(shares["as trained"] - 1) < 0.1 and abs(shares["frozen"] - 1) < 0.1, shares


def test_a_frozen_policy_is_only_sampled_from(model: Path, tmp_path: Path) -> None:
    """If it fails, merged weights pass for the base, are saved in its place, or are trained a second time."""
    denoiser = adapted(model, torch.float32, ratio=0.1)
    with denoiser.base_only(), pytest.raises(ValueError, match="switched off"):
        denoiser.freeze_for_sampling()
    denoiser.freeze_for_sampling()
    with pytest.raises(ValueError, match="frozen for sampling"), denoiser.base_only():
        pass
    with pytest.raises(ValueError, match="frozen for sampling"):
        denoiser.trainable()
    with pytest.raises(ValueError, match="frozen for sampling"):
        denoiser.attach_adapter(AdapterConfig(), seed=0)
    with pytest.raises(ValueError, match="frozen for sampling"):
        checkpoint.save(tmp_path / "policy", checkpoint.base_state(denoiser))
    assert not (tmp_path / "policy").exists()
    assert not denoiser.head().logits(denoiser(IDS)).requires_grad


def test_a_policy_without_an_adapter_is_frozen_too(denoiser: Denoiser) -> None:
    """If it fails, sampling from a policy without an adapter keeps what only training needs, or changes it."""
    ids = torch.tensor([denoiser.encode("12.4=")])
    before = denoiser(ids)
    denoiser.freeze_for_sampling()
    assert torch.equal(denoiser(ids), before) and denoiser.head() is denoiser.head()
    with pytest.raises(ValueError, match="frozen for sampling"):
        denoiser.trainable()


def test_a_policy_is_frozen_map_by_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a frozen adapter is held in two precisions at once, for which the plan has no room."""
    WRITERS["llada"](tmp_path)
    denoiser = adapted(tmp_path, torch.bfloat16, 0.01)
    alive = [weakref.ref(layer) for layer in layers(denoiser).values()]
    left: list[int] = []

    class Watched(sampling_form.Beside):
        def __init__(self, base: torch.nn.Linear, down: Tensor, up: Tensor):
            left.append(sum(layer() is not None for layer in alive))
            super().__init__(base, down, up)

    monkeypatch.setattr(sampling_form, "Beside", Watched)
    gc.disable()
    try:
        denoiser.freeze_for_sampling()
    finally:
        gc.enable()
    assert left == [*range(len(alive), 0, -1)]
