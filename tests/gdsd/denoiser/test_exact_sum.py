"""The exact sum of an adapted map: its gradients, and that a policy which only samples is the one that is trained."""

import gc
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear, LoraLayer
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tasks.gdsd.config.model_source import ModelFolder
from tasks.gdsd.config.policy import AdapterConfig
from tasks.gdsd.denoiser import checkpoint, exact_sum, quantization
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.denoiser.exact_sum import AdaptedLinear, total
from tasks.gdsd.denoiser.load import load_source
from tasks.gdsd.distill.memory import recomputed
from tests.gdsd.checkpoints import CPU
from tests.gdsd.official import WRITERS, widened

IDS = torch.randint(10, 260, (4, 32), generator=torch.Generator().manual_seed(0))
FORMS: dict[str, Callable[[Denoiser], None]] = {
    "as trained": lambda denoiser: None,
    "added": lambda denoiser: add(denoiser),
    "merged": lambda denoiser: merge(denoiser),
    "frozen": lambda denoiser: denoiser.freeze_for_sampling(),
}
INPUTS, OUTPUTS, RANK, ROWS = 64, 48, 4, 6
Bits = Literal[4] | None
BITS = pytest.mark.parametrize("bits", [None, 4])


def loaded(model: Path, dtype: torch.dtype, bits: Bits = None) -> Denoiser:
    if bits is not None:
        pytest.importorskip("bitsandbytes")
    return load_source(ModelFolder(path=str(model)), CPU, dtype, bits)


def adapted(model: Path, dtype: torch.dtype, ratio: float, rank: int = 4) -> Denoiser:
    """A policy whose adapter adds random matrices of a given size, relative to the weights."""
    denoiser = loaded(model, dtype)
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


@pytest.fixture(params=["llada", "dream"])
def model(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A published model without biases, and one with them, of weights that bfloat16 can hold."""
    widened(monkeypatch)
    WRITERS[request.param](tmp_path / "model", dtype=torch.bfloat16)
    return tmp_path / "model"


# One map


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def base_map(bits: Bits, dtype: torch.dtype) -> tuple[torch.nn.Linear, Tensor]:
    """A frozen map, and its weights as they count."""
    linear = torch.nn.Linear(INPUTS, OUTPUTS, dtype=dtype).requires_grad_(False)
    linear.weight.copy_(drawn(OUTPUTS, INPUTS))
    if bits is None:
        return linear, linear.weight
    pytest.importorskip("bitsandbytes")
    packed = quantization.quantise(linear, linear.weight.data)
    return packed, quantization.dense(packed)


@BITS
def test_its_gradients_are_those_of_the_formula(bits: Bits) -> None:
    """If it fails, adapters are trained in another direction. Float64 shows it: numeric differences agree to 1e-6."""
    base, dense = base_map(bits, torch.float32)
    x, down, up = (part.requires_grad_() for part in (drawn(2, 3, INPUTS), drawn(RANK, INPUTS), drawn(OUTPUTS, RANK)))
    expected = x @ dense.double().T + x @ down.T @ up.T + base.bias.double()
    torch.testing.assert_close(total(x, base, down, up), expected)
    assert torch.autograd.gradcheck(lambda *parts: total(parts[0], base, *parts[1:]), (x, down, up), fast_mode=True)


@BITS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_nothing_of_a_weights_size_is_kept(bits: Bits, dtype: torch.dtype) -> None:
    """If it fails, an update needs more memory than planned: a copy of the inputs for each map, or of the weights."""
    base, _ = base_map(bits, dtype)
    x = drawn(ROWS, INPUTS).bfloat16().requires_grad_()
    down, up = (drawn(*shape).bfloat16().requires_grad_() for shape in ((RANK, INPUTS), (OUTPUTS, RANK)))
    known = {part.data_ptr() for part in (x, base.weight, down, up)}
    new: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in known:
            new.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        total(x, base, down, up)
    assert set(new) == {ROWS * RANK}, "A x is all that is new"


def test_all_outputs_are_passed_over_by_products_alone() -> None:
    """If it fails, an adapter's scale and sum cost passes over all outputs, once a fifth of an update."""
    layer = adapted_layer()
    passes: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # torch's form
            found = func(*args, **(kwargs or {}))
            is_view = any(one.alias_info and not one.alias_info.is_write for one in func._schema.returns)
            if not is_view and isinstance(found, Tensor) and found.numel() >= ROWS * min(INPUTS, OUTPUTS):
                passes.append(func.overloadpacket.__name__)
            return found

    x, gradient = drawn(ROWS, INPUTS).float().requires_grad_(), drawn(ROWS, OUTPUTS).float()
    with Watch():
        layer(x).backward(gradient)
    assert passes == ["mm", "addmm_", "add_", "mm", "addmm_"], "two products and the bias, and two on the way back"


def adapted_layer() -> AdaptedLinear:
    """An adapted map in float32, with a bias."""
    inside = torch.nn.ModuleDict({"map": torch.nn.Linear(INPUTS, OUTPUTS)}).requires_grad_(False)
    config = LoraConfig(r=RANK, target_modules=["map"])
    config._register_custom_module({torch.nn.Linear: AdaptedLinear})
    inject_adapter_in_model(config, inside)
    layer = inside["map"]
    assert isinstance(layer, AdaptedLinear)
    return layer


# Training


def trainable(model: Path, bits: Bits, dtype: torch.dtype = torch.bfloat16) -> Denoiser:
    """A policy with an adapter that matters, and whose scaling of 2 loses no digits."""
    denoiser = loaded(model, dtype, bits)
    denoiser.attach_adapter(AdapterConfig(rank=RANK, alpha=2.0 * RANK, base_bits=bits), seed=0)
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in denoiser.trainable():
            if "lora_B" in name:
                parameter.normal_(std=0.05, generator=source)
    return denoiser


def states(denoiser: Denoiser, autocast: bool) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
        return denoiser(IDS[:2, :16])


def gradients(denoiser: Denoiser, autocast: bool, recompute: bool = False) -> Tensor:
    with recomputed(denoiser, recompute):
        states(denoiser, autocast).float().square().sum().backward()
    return torch.cat([parameter.grad.flatten() for _, parameter in denoiser.trainable() if parameter.grad is not None])


@BITS
@pytest.mark.parametrize("autocast", [False, True])
def test_training_scores_what_sampling_draws_from(model: Path, bits: Bits, autocast: bool) -> None:
    """If it fails, the old scores are of another policy than the rollouts: both must be the same to the bit."""
    denoiser = trainable(model, bits)
    assert {part.dtype for _, part in denoiser.trainable()} == {torch.float32}, "half precision rounds updates away"
    trained = states(denoiser, autocast)
    with denoiser.base_only():
        assert not torch.equal(states(denoiser, autocast), trained), "the adapter matters, so the test means something"
    denoiser.freeze_for_sampling()
    assert trained.dtype == torch.bfloat16 and trained.requires_grad and torch.equal(states(denoiser, False), trained)


@pytest.mark.parametrize(
    ("dtype", "bits", "autocast"),
    [(torch.bfloat16, None, False), (torch.bfloat16, 4, True), (torch.float32, None, True), (torch.float32, 4, True)],
    ids=str,
)
def test_training_in_half_precision_goes_where_float32_does(
    model: Path, dtype: torch.dtype, bits: Bits, autocast: bool
) -> None:
    """If it fails, an adapter on a half-precision or 4-bit base learns something else; rounding leaves 0.99 of it."""
    exact = gradients(trainable(model, bits, torch.float32), autocast=False)
    rounded = gradients(trainable(model, bits, dtype), autocast)
    assert torch.cosine_similarity(exact, rounded, dim=0) > 0.99 and abs(rounded.norm() / exact.norm() - 1) < 0.05
    assert torch.equal(gradients(trainable(model, bits, dtype), autocast, recompute=True), rounded)


def test_a_fresh_adapter_leaves_a_float32_base_as_it_was(model: Path) -> None:
    """If it fails, training starts from another policy than the base: B = 0, so W + alpha / r B A = W, to the bit."""
    denoiser = loaded(model, torch.float32)
    before = states(denoiser, False)
    denoiser.attach_adapter(AdapterConfig(rank=RANK), seed=0)
    assert torch.equal(states(denoiser, False), before)
    assert any(isinstance(part, AdaptedLinear) for part in denoiser.network.modules())


# Sampling


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
    inputs = torch.randn(4096, 64, generator=torch.Generator().manual_seed(2)).bfloat16()
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

    class Watched(exact_sum.Beside):
        def __init__(self, base: torch.nn.Linear, down: Tensor, up: Tensor):
            left.append(sum(layer() is not None for layer in alive))
            super().__init__(base, down, up)

    monkeypatch.setattr(exact_sum, "Beside", Watched)
    gc.disable()
    try:
        denoiser.freeze_for_sampling()
    finally:
        gc.enable()
    assert left == [*range(len(alive), 0, -1)]
