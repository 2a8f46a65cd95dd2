"""Gradients where memory does not suffice, of blocks that are computed again, and in another precision."""

import copy
import logging
from collections.abc import Callable

import pyarrow as pa
import pytest
import torch
from torch import Tensor

from tasks.gdsd.denoiser.checkpoint import PolicyState
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.distill import forward, gradients, memory
from tasks.gdsd.distill.forward import hidden_states
from tasks.gdsd.transient import is_shortage
from tests.gdsd.epochs import computed, configured, run, weights
from tests.gdsd.shared_epochs import SHORTAGE, Case, assert_close, do, start_of

TWO_GROUPS = 4 * 2 * 4 * (17 + 8)  # tokens of the longest prompts' completions in their four views


# Shortage


@pytest.mark.parametrize(
    ("place", "micro_batch", "adapter"),
    [("forward", 0, True), ("backward", 0, False), ("backward", 1, True), ("forward", 2, False), ("backward", 4, True)],
)
def test_a_shortage_changes_no_result(
    place: str, micro_batch: int, adapter: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """If it fails, a run dies of one long prompt, or the failed micro-batch has left part of its gradient behind.

    There are two micro-batches per update: the first update fails in its first or second one, where the old and the
    reference scores are taken, or the second or third update in its first one, where they are read.
    """
    config = computed(configured({"reference_weight": 0.3, "trust_region": 0.05}), micro_batch_tokens=TWO_GROUPS)
    with caplog.at_level(logging.WARNING):
        found = do(Case(config, adapter=adapter, broken=f"{place} {micro_batch}"))
    assert ["do not fit the memory; going on with" in record.message for record in caplog.records] == [True]
    assert_close(found, do(Case(config, adapter=adapter)))


def test_a_failed_micro_batch_leaves_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a micro-batch that is done again counts more than once.

    The failure comes in the backward pass, when some weights have their gradients already.
    """
    policy: list[Denoiser] = []
    counts: list[int] = []

    def states(denoiser: Denoiser, *given: Tensor) -> tuple[Tensor, Tensor]:
        policy[:] = [denoiser]
        return hidden_states(denoiser, *given)  # type: ignore[arg-type]

    def counting(function: Callable[..., object]) -> Callable[..., object]:
        def counted(given: object) -> object:
            counts.append(sum(parameter.grad is not None for _, parameter in policy[0].trainable()))
            return function(given)

        return counted

    monkeypatch.setattr("tests.gdsd.shared_epochs.hidden_states", states)
    monkeypatch.setattr(gradients, "is_shortage", counting(is_shortage))
    monkeypatch.setattr(memory, "release", counting(memory.release))
    do(Case(broken="backward 0"))
    during, after = counts
    assert during > 10 and after == 0


def test_micro_batches_are_halved_until_they_fit(
    table: pa.Table, start: PolicyState, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If it fails, a device with little memory gives up after one try, or forgets what it has learned about itself.

    Twelve completions, of which three fit: the limit falls to a half of them, then to a quarter, and stays there.
    """
    expected, _ = run(start, table)
    tried: list[int] = []

    def states(denoiser: Denoiser, prompts: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        tried.append(len(prompts))
        if len(prompts) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return hidden_states(denoiser, prompts, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(forward, "hidden_states", states)
    with caplog.at_level(logging.WARNING):
        found, _ = run(start, table)
    assert tried[:3] == [12, 6, 3] and max(tried[2:]) == 3
    assert len(caplog.records) == 2
    torch.testing.assert_close(weights(found), weights(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("objective, size", [({}, 1), ({"baseline": "group"}, 4)])
def test_the_smallest_micro_batch_that_does_not_fit_ends_the_epoch(objective: dict[str, object], size: int) -> None:
    """If it fails, an epoch without enough memory halves for ever, cuts a group in two, or does not say what helps."""
    outcome = do(Case(configured(objective), broken="always"))
    assert isinstance(outcome.error, memory.OutOfMemoryError)
    assert f", {size} completions in all views" in str(outcome.error)
    assert "gradient_checkpointing" in str(outcome.error)


def test_other_errors_are_not_taken_for_a_shortage(
    table: pa.Table, start: PolicyState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, a bug is repeated with ever smaller micro-batches, and its cause is hidden."""

    def states(*given: object) -> tuple[Tensor, Tensor]:
        raise RuntimeError("The size of tensor a (3) must match the size of tensor b (4)")

    monkeypatch.setattr(forward, "hidden_states", states)
    with pytest.raises(RuntimeError, match="size of tensor"):
        run(start, table)


def real_shortage() -> Exception:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    return caught.value


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError(SHORTAGE),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
        real_shortage(),
    ],
)
def test_every_kind_of_shortage_is_recognised(error: Exception) -> None:
    """If it fails, a run dies where it could go on, or this version of torch words its error in another way."""
    assert is_shortage(error)


# Computing again


def gradients_of(denoiser: Denoiser, wanted: bool) -> list[Tensor]:
    ids = torch.tensor([denoiser.encode("12.4=")])
    denoiser.zero_grad()
    with memory.recomputed(denoiser, wanted):
        denoiser.head().logits(denoiser(ids)).square().sum().backward()
    return [parameter.grad.clone() for _, parameter in denoiser.trainable() if parameter.grad is not None]


@pytest.mark.parametrize("adapter", [False, True])
def test_recomputed_blocks_give_the_same_gradients(adapter: bool) -> None:
    """If it fails, gradient_checkpointing trains another policy, or an adapter gets no gradient at all."""
    denoiser = start_of(Case(adapter=adapter)).denoiser
    kept, again = gradients_of(denoiser, False), gradients_of(denoiser, True)
    assert len(kept) == len(denoiser.trainable()) == len(again)
    assert all(torch.equal(one, other) for one, other in zip(kept, again, strict=True))
    assert all(bool(gradient.any()) for gradient in kept)


def test_recomputed_blocks_are_not_kept(denoiser: Denoiser) -> None:
    """If it fails, gradient_checkpointing is a dead switch. What autograd keeps of the blocks is counted."""
    ids, kept = torch.tensor([denoiser.encode("12.4=")]), []
    for wanted in (False, True):
        held: list[int] = []

        def hold(tensor: Tensor, held: list[int] = held) -> Tensor:
            held.append(tensor.nbytes)
            return tensor

        with memory.recomputed(denoiser, wanted), torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
            denoiser(ids)
        kept.append(sum(held))
    assert kept[1] < kept[0] / 3


@pytest.mark.parametrize("recomputed", [False, True])
def test_dropout_stays_off(recomputed: bool, start: PolicyState, table: pa.Table) -> None:
    """If it fails, old and new scores differ by noise. The library recomputes blocks in training mode only."""
    noisy = PolicyState(copy.deepcopy(start.denoiser), start.record, {})
    for layer in noisy.denoiser.network.model.layers:
        layer.self_attn.attention_dropout = 0.5
    noisy.denoiser.train()
    trained, _ = run(noisy, table, computed(gradient_checkpointing=recomputed))
    torch.testing.assert_close(weights(trained), weights(run(start, table)[0]), rtol=0, atol=1e-6)
    assert not any(module.training for module in trained.denoiser.modules())


# Precision


def test_bfloat16_rounds_the_products_and_no_score(start: PolicyState, table: pa.Table) -> None:
    """If it fails, precision is a dead switch, or weights, moments or scores lose precision with the products.

    bfloat16 has 8 bits: the first loss, which is of scores that equal the old ones, has none of its rounding.
    """
    exact, expected = run(start, table)
    rounded, stats = run(start, table, computed(precision="bfloat16"))
    assert stats.steps[0].loss == pytest.approx(expected.steps[0].loss, rel=1e-6)
    assert stats.steps[0].grad_norm != expected.steps[0].grad_norm
    assert stats.steps[0].grad_norm == pytest.approx(expected.steps[0].grad_norm, rel=0.1)
    assert not torch.equal(weights(rounded), weights(exact))
    assert all(parameter.dtype == torch.float32 for parameter in rounded.denoiser.parameters())
    assert all(tensor.dtype == torch.float32 for tensor in rounded.optimizer.values())
    again, _ = run(start, table)
    assert torch.equal(weights(again), weights(exact)), "precision is of one epoch"
