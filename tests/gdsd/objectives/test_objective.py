"""The GDSD loss against hand calculation, and what must leave it as it is."""

import math
from dataclasses import astuple, replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from tasks.gdsd.config.objective import GdsdConfig
from tasks.gdsd.objectives import Scores
from tasks.gdsd.objectives.base import pair_scores
from tasks.gdsd.objectives.gdsd import gdsd_loss
from tests.gdsd.readings import evenly, from_pair_scores, part

Baseline = Literal["zero", "group"]
BASELINES: list[Baseline] = ["zero", "group"]


def settings(baseline: Baseline = "zero", guidance: float = 0.5, reference_weight: float = 0.0) -> GdsdConfig:
    return GdsdConfig(
        trust_region=None,
        guidance=guidance,
        reference_weight=reference_weight,
        baseline=baseline,
        mask_source="random",
        share_masks=True,
    )


def example(pairs: int = 3, prompts: int = 4, group_size: int = 5) -> tuple[Scores, Tensor]:
    """Random readouts and advantages in float64; values of order 1."""
    source = torch.Generator().manual_seed(0)
    sequences = prompts * group_size
    given = from_pair_scores(*torch.zeros(3, pairs, sequences, dtype=torch.float64), group_size=group_size)
    theta, old, ref = torch.randn(3, *given.hidden.shape, generator=source, dtype=torch.float64) * given.hidden
    advantages = torch.randn(sequences, generator=source, dtype=torch.float64)
    return replace(given, theta=theta, old=old, ref=ref), advantages


def of_pairs(readouts: Tensor, given: Scores) -> Tensor:  # (K, B)
    return pair_scores(readouts, given.hidden, given.lengths, "uniform")


def test_by_hand() -> None:
    """If it fails, the policy is regressed onto another target than the documented one.

    One pair, one group of two, psi = 0.5, A = (1, -1), old = (-1, -2), so the targets are (-0.5, -2.5). With
    theta = (-0.75, -2) the residuals are (-0.25, 0.5) and the loss is 0.0625 + 0.25 = 0.3125. Their mean is 0.125, so
    the baseline `group` leaves (-0.375, 0.375) and 2 * 0.140625 = 0.28125. Shifts are |0.25| + |0| = 0.25.
    """
    given = from_pair_scores(torch.tensor([[-0.75, -2.0]]), torch.tensor([[-1.0, -2.0]]))
    advantages = torch.tensor([1.0, -1.0])
    loss, metrics = gdsd_loss(given, advantages, settings("zero"))
    assert loss.item() == pytest.approx(0.3125)
    assert metrics.residual_abs.item() == pytest.approx(0.75)
    assert metrics.shift_abs.item() == pytest.approx(0.25)
    loss, metrics = gdsd_loss(given, advantages, settings("group"))
    assert loss.item() == pytest.approx(0.28125)
    assert metrics.residual_abs.item() == pytest.approx(0.75)
    assert metrics.shift_abs.item() == pytest.approx(0.25)


def test_the_loss_averages_over_pairs_and_sums_over_groups() -> None:
    """If it fails, micro-batches do not add up to the whole batch, or more pairs make longer steps."""
    given, advantages = example()
    for baseline in BASELINES:
        whole, metrics = gdsd_loss(given, advantages, settings(baseline))
        parts = [
            gdsd_loss(part(given, slice(k, k + 1), slice(b, b + 5)), advantages[b : b + 5], settings(baseline))
            for k in range(3)
            for b in range(0, 20, 5)
        ]
        torch.testing.assert_close(sum(loss for loss, _ in parts) / 3, whole)
        torch.testing.assert_close(sum(found.residual_abs for _, found in parts) / 3, metrics.residual_abs)
        torch.testing.assert_close(sum(found.shift_abs for _, found in parts) / 3, metrics.shift_abs)


@pytest.mark.parametrize("baseline", BASELINES)
def test_nothing_to_learn_is_a_fixed_point(baseline: Baseline) -> None:
    """If it fails, a policy drifts although no answer is better than another.

    theta = old and A = 0 make every residual 0, and with it the loss and its gradient.
    """
    given, advantages = example()
    theta = given.old.clone().requires_grad_()
    loss, metrics = gdsd_loss(replace(given, theta=theta), torch.zeros_like(advantages), settings(baseline))
    loss.backward()
    assert loss.item() == 0 and metrics.residual_abs.item() == 0 and metrics.shift_abs.item() == 0
    assert theta.grad is not None and not theta.grad.any()


def test_the_gradient_is_twice_the_residual() -> None:
    """If it fails, training does not stop at its target, as it should where a policy gradient pushes on.

    d/d theta (theta - t)^2 = 2 (theta - t), over the 3 pairs of the mean. With the baseline `group`, r - mean(r) is a
    projection, symmetric and idempotent, so the gradient of |P r|^2 is 2 P r. A token has its L-th part, in the view
    that hides it; places that nothing is read out of pass no gradient on.
    """
    given, advantages = example()
    theta = given.theta.clone().requires_grad_()
    residual = of_pairs(given.theta, given) - (of_pairs(given.old, given) + 0.5 * advantages)
    loss, _ = gdsd_loss(replace(given, theta=theta), advantages, settings("zero"))
    (gradient,) = torch.autograd.grad(loss, theta)
    torch.testing.assert_close(gradient * given.hidden, evenly(2 * residual / 3 / 4, given.hidden))
    loss, _ = gdsd_loss(replace(given, theta=theta), advantages, settings("group"))
    groups = residual.view(3, 4, 5)
    centred = (groups - groups.mean(2, keepdim=True)).view(3, 20)
    (gradient,) = torch.autograd.grad(loss, theta)
    torch.testing.assert_close(gradient * given.hidden, evenly(2 * centred / 3 / 4, given.hidden))


def test_metrics_hold_no_graph() -> None:
    """If it fails, every reported number keeps the activations of its step in memory."""
    given, advantages = example()
    loss, metrics = gdsd_loss(replace(given, theta=given.theta.clone().requires_grad_()), advantages, settings())
    assert loss.requires_grad
    assert not metrics.residual_abs.requires_grad and not metrics.shift_abs.requires_grad


def test_group_baseline_ignores_a_constant_per_group() -> None:
    """If it fails, the normalisers of policy and teacher do not cancel, and the loss is no variance of log-ratios.

    r - mean(r) is the same for r + c. With `zero` the same shift must matter: the baseline is no dead switch.
    """
    given, advantages = example()
    shift = torch.randn(3, 4, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    shifted = replace(given, theta=given.theta + evenly(shift.expand(3, 4, 5).reshape(3, 20), given.hidden))
    before, _ = gdsd_loss(given, advantages, settings("group"))
    after, _ = gdsd_loss(shifted, advantages, settings("group"))
    torch.testing.assert_close(after, before)
    assert gdsd_loss(shifted, advantages, settings())[0].item() != pytest.approx(
        gdsd_loss(given, advantages, settings())[0].item(), rel=1e-2
    )


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("advantage", [0.0, 7.0, math.nan])
def test_unjudged_sequences_add_nothing(baseline: Baseline, advantage: float) -> None:
    """If it fails, an answer without a verdict trains the policy, or moves the baseline of those that have one.

    Dropping the unjudged sequence by hand, which leaves a group of 4, must give the same loss and the same gradient of
    the others.
    """
    given, advantages = example(prompts=1)
    judged = torch.tensor([True, True, False, True, True])
    advantages[2] = advantage
    theta = given.theta.clone().requires_grad_()
    with_it, metrics = gdsd_loss(replace(given, theta=theta, judged=judged), advantages, settings(baseline))
    (gradient,) = torch.autograd.grad(with_it, theta)
    fewer = replace(given, theta=theta, judged=judged)
    fewer = replace(part(fewer, slice(None), judged), group_size=4)
    without, expected = gdsd_loss(fewer, advantages[judged], settings(baseline))
    torch.testing.assert_close(with_it, without)
    torch.testing.assert_close(astuple(metrics), astuple(expected))
    torch.testing.assert_close(gradient, torch.autograd.grad(without, theta)[0])
    assert not gradient[:, 2].any()


@pytest.mark.parametrize("baseline", BASELINES)
def test_a_group_without_any_verdict_adds_nothing(baseline: Baseline) -> None:
    """If it fails, one prompt that cannot be judged makes the whole update NaN."""
    given, advantages = example(prompts=2)
    judged = torch.arange(10) < 5
    whole, _ = gdsd_loss(replace(given, judged=judged), advantages, settings(baseline))
    first = part(given, slice(None), slice(5))
    torch.testing.assert_close(whole, gdsd_loss(first, advantages[:5], settings(baseline))[0])


@pytest.mark.parametrize("baseline", BASELINES)
def test_the_reference_is_mixed_into_the_teacher(baseline: Baseline) -> None:
    """If it fails, `reference_weight` does not pull towards the base policy, or by another amount.

    t = (1 - beta) old + beta ref + psi A: giving that mix as the old scores, with beta = 0, is the same.
    """
    given, advantages = example()
    assert given.ref is not None
    mixed = replace(given, old=0.7 * given.old + 0.3 * given.ref, ref=None)
    found, _ = gdsd_loss(given, advantages, settings(baseline, reference_weight=0.3))
    torch.testing.assert_close(found, gdsd_loss(mixed, advantages, settings(baseline))[0])
    ignored, _ = gdsd_loss(given, advantages, settings(baseline))
    assert ignored.item() != pytest.approx(found.item(), rel=1e-3)


def test_a_reference_weight_without_reference_scores_is_refused() -> None:
    """If it fails, a run that asks for a pull towards its base trains silently without one."""
    given, advantages = example()
    with pytest.raises(ValueError, match=r"reference_weight is 0\.3"):
        gdsd_loss(replace(given, ref=None), advantages, settings(reference_weight=0.3))


@pytest.mark.parametrize("baseline", BASELINES)
def test_permuting_a_group_changes_nothing(baseline: Baseline) -> None:
    """If it fails, the order in which completions were generated changes training."""
    given, advantages = example()
    judged = torch.rand(20, generator=torch.Generator().manual_seed(2)) < 0.8
    order = torch.cat(
        [5 * group + torch.randperm(5, generator=torch.Generator().manual_seed(group)) for group in (2, 0, 3, 1)]
    )
    given = replace(given, judged=judged)
    moved = part(given, slice(None), order)
    config = settings(baseline, reference_weight=0.1)
    before, metrics = gdsd_loss(given, advantages, config)
    after, moved_metrics = gdsd_loss(moved, advantages[order], config)
    torch.testing.assert_close(after, before)
    torch.testing.assert_close(astuple(moved_metrics), astuple(metrics))
