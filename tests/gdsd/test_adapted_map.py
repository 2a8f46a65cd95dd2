"""Adapted maps in half precision: the sum that training and sampling share, its gradients, and what it keeps."""

from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from tasks.gdsd.config.model_source import ModelFolder
from tasks.gdsd.config.train import AdapterConfig
from tasks.gdsd.denoiser.adapted_linear import AdaptedLinear
from tasks.gdsd.denoiser.adapted_map import total
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.denoiser.four_bits import FourBitLinear
from tasks.gdsd.distill.memory import recomputed
from tests.gdsd.checkpoints import CPU
from tests.gdsd.official import WRITERS

INPUTS, OUTPUTS, RANK, ROWS = 64, 48, 4, 6
Bits = Literal[4] | None


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def base_map(bits: Bits, dtype: torch.dtype) -> torch.nn.Linear:
    linear = torch.nn.Linear(INPUTS, OUTPUTS, dtype=dtype).requires_grad_(False)
    linear.weight.copy_(drawn(OUTPUTS, INPUTS))
    return linear if bits is None else FourBitLinear(linear, linear.weight)


def adapted(model: Path, bits: Bits, dtype: torch.dtype = torch.bfloat16) -> Denoiser:
    """A policy with an adapter that matters, and whose scaling of 2 loses no digits."""
    denoiser = Denoiser.from_source(ModelFolder(path=str(model)), CPU, dtype, bits)
    denoiser.attach_adapter(AdapterConfig(rank=RANK, alpha=2.0 * RANK, base_bits=bits), seed=0)
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in denoiser.trainable():
            if "lora_B" in name:
                parameter.normal_(std=0.05, generator=source)
    return denoiser


def states(denoiser: Denoiser, autocast: bool) -> Tensor:
    ids = torch.randint(10, 260, (2, 16), generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
        return denoiser(ids)


def gradients(denoiser: Denoiser, autocast: bool, recompute: bool = False) -> Tensor:
    with recomputed(denoiser, recompute):
        states(denoiser, autocast).float().square().sum().backward()
    return torch.cat([parameter.grad.flatten() for _, parameter in denoiser.trainable() if parameter.grad is not None])


@pytest.fixture(params=["llada", "dream"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A published model without biases, and one with them, of weights that bfloat16 can hold."""
    WRITERS[request.param](tmp_path / "model", dtype=torch.bfloat16)
    return tmp_path / "model"


@pytest.mark.parametrize("bits", [None, 4])
def test_its_gradients_are_those_of_the_formula(bits: Bits) -> None:
    """If it fails, adapters are trained in another direction. Float64 shows it: numeric differences agree to 1e-6."""
    base = base_map(bits, torch.float32)
    dense = base.dense() if isinstance(base, FourBitLinear) else base.weight
    x, down, up = (part.requires_grad_() for part in (drawn(2, 3, INPUTS), drawn(RANK, INPUTS), drawn(OUTPUTS, RANK)))
    expected = x @ dense.double().T + x @ down.T @ up.T + base.bias.double()
    torch.testing.assert_close(total(x, base, down, up), expected)
    assert torch.autograd.gradcheck(lambda *parts: total(parts[0], base, *parts[1:]), (x, down, up), fast_mode=True)


@pytest.mark.parametrize("bits", [None, 4])
@pytest.mark.parametrize("autocast", [False, True])
def test_training_scores_what_sampling_draws_from(model: Path, bits: Bits, autocast: bool) -> None:
    """If it fails, the old scores are of another policy than the rollouts: both must be the same to the bit."""
    denoiser = adapted(model, bits)
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
    exact = gradients(adapted(model, bits, torch.float32), autocast=False)
    rounded = gradients(adapted(model, bits, dtype), autocast)
    assert torch.cosine_similarity(exact, rounded, dim=0) > 0.99 and abs(rounded.norm() / exact.norm() - 1) < 0.05
    assert torch.equal(gradients(adapted(model, bits, dtype), autocast, recompute=True), rounded)


@pytest.mark.parametrize("bits", [None, 4])
def test_nothing_of_a_weights_size_is_kept(bits: Bits) -> None:
    """If it fails, an update needs more memory than planned: a copy of the inputs for each map, or of the weights."""
    base = base_map(bits, torch.bfloat16)
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


def test_full_precision_is_the_librarys_own(tmp_path: Path) -> None:
    """If it fails, a fresh adapter no longer leaves a float32 base as it was, to the bit."""
    WRITERS["llada"](tmp_path / "model")
    denoiser = Denoiser.from_source(ModelFolder(path=str(tmp_path / "model")), CPU)
    before = states(denoiser, False)
    denoiser.attach_adapter(AdapterConfig(rank=RANK), seed=0)
    assert torch.equal(states(denoiser, False), before)
    assert any(isinstance(part, AdaptedLinear) for part in denoiser.network.modules())
