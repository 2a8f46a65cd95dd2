"""The GDSD loss against hand calculation: the regression, its baselines, and the pull towards the base policy."""

from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from tasks.gdsd.config.objective import GdsdConfig
from tasks.gdsd.objectives import Scores
from tasks.gdsd.objectives.base import pair_scores
from tasks.gdsd.objectives.gdsd import gdsd_loss
from tests.gdsd.objectives.examples import coupled, evenly, from_pair_scores, scores

Baseline = Literal["zero", "group"]
Form = Literal["optimum", "penalty", "token_penalty"]


def settings(
    baseline: Baseline = "zero",
    reference_weight: float = 0.0,
    form: Form = "optimum",
    readout: Literal["log_prob", "centred"] = "log_prob",
) -> GdsdConfig:
    return GdsdConfig(
        trust_region=None,
        guidance=0.5,
        reference_weight=reference_weight,
        form=form,
        readout=readout,
        baseline=baseline,
        mask_source="random",
    )


def penalty(
    readout: Literal["log_prob", "centred"] = "log_prob", baseline: Baseline = "zero", form: Form = "penalty"
) -> GdsdConfig:
    return settings(baseline, 0.1, form, readout)


def example(length: int = 4) -> tuple[Scores, Tensor]:
    """Random scores of 3 pairs of masks in 4 groups of 5, and advantages, in float64; values of order 1."""
    source = torch.Generator().manual_seed(0)
    theta, old, ref = torch.randn(3, 3, 20, generator=source, dtype=torch.float64)
    given = from_pair_scores(theta, old, ref, group_size=5, length=length)
    return given, torch.randn(20, generator=source, dtype=torch.float64)


def of_pairs(readouts: Tensor, given: Scores) -> Tensor:  # (K, B)
    return pair_scores(readouts, given.read, given.lengths, "uniform")


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
    torch.testing.assert_close(gradient * given.read, evenly(2 * residual / 3 / 4, given.read))
    loss, _ = gdsd_loss(replace(given, theta=theta), advantages, settings("group"))
    groups = residual.view(3, 4, 5)
    centred = (groups - groups.mean(2, keepdim=True)).view(3, 20)
    (gradient,) = torch.autograd.grad(loss, theta)
    torch.testing.assert_close(gradient * given.read, evenly(2 * centred / 3 / 4, given.read))


def test_group_baseline_ignores_a_constant_per_group() -> None:
    """If it fails, the normalisers of policy and teacher do not cancel, and the loss is no variance of log-ratios.

    r - mean(r) is the same for r + c. With `zero` the same shift must matter: the baseline is no dead switch.
    """
    given, advantages = example()
    shift = torch.randn(3, 4, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    shifted = replace(given, theta=given.theta + evenly(shift.expand(3, 4, 5).reshape(3, 20), given.read))
    before, _ = gdsd_loss(given, advantages, settings("group"))
    after, _ = gdsd_loss(shifted, advantages, settings("group"))
    torch.testing.assert_close(after, before)
    assert gdsd_loss(shifted, advantages, settings())[0].item() != pytest.approx(
        gdsd_loss(given, advantages, settings())[0].item(), rel=1e-2
    )


@pytest.mark.parametrize("baseline", ["zero", "group"])
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


def test_the_penalty_by_hand() -> None:
    """If it fails, the pull towards the base policy has another strength than documented.

    One pair, L = 4, psi = 0.5, A = (1, -1), old = (-1, -2): targets (-0.5, -2.5). With theta = (-0.75, -2) the squared
    residuals are 0.0625 + 0.25. Against ref = (-1, -1.5) the summed log-ratios are 4 * (0.25, -0.5) = (1, -2), so
    k2 / L = 1/2 (1, 4) / 4 = (0.125, 0.5). The loss is 0.3125 + 0.1 * 0.625 = 0.375.
    """
    given = from_pair_scores(torch.tensor([[-0.75, -2.0]]), torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.0, -1.5]]))
    loss, metrics = gdsd_loss(given, torch.tensor([1.0, -1.0]), penalty())
    assert loss.item() == pytest.approx(0.375)
    assert metrics.kl_ref is not None and metrics.kl_ref.item() == pytest.approx(0.625)
    assert metrics.residual_abs is not None and metrics.residual_abs.item() == pytest.approx(0.75), "no part of it"


def test_the_penalty_of_tokens_by_hand() -> None:
    """If it fails, tokens that move away from the base policy in opposite directions cost nothing.

    One pair, L = 4. theta - ref is (3, -1, 1, -1) and (1, 1, -1, -1): k2 = 1/2 (9 + 1 + 1 + 1) / 4 = 1.5 and 1/2 4 / 4
    = 0.5 per token, where the completions' log-ratios of 2 and 0 give 1/2 4 / 4 = 0.5 and 0.
    """
    theta = torch.tensor([[3.0, -1.0, 1.0, -1.0], [1.0, 1.0, -1.0, -1.0]]) - 2
    given = scores(coupled([[1, 1, 0, 0], [1, 1, 0, 0]]), theta, theta, torch.tensor(-2.0))
    forms: tuple[tuple[Form, float], ...] = (("token_penalty", 2.0), ("penalty", 0.5))
    for form, expected in forms:
        _, metrics = gdsd_loss(given, torch.zeros(2), penalty(form=form))
        assert metrics.kl_ref is not None and metrics.kl_ref.item() == pytest.approx(expected)


def test_the_penalty_is_of_log_probabilities_whatever_the_readout() -> None:
    """If it fails, training with a centred readout is dominated by a penalty on a scale without meaning.

    Centred readouts may all grow while the policy stays as it is. With log-probabilities beside them, the penalty and
    its gradient are those of the readout `log_prob`, and a shift of the centred readouts changes neither.
    """
    given, advantages = example()
    _, expected = gdsd_loss(given, advantages, penalty())
    assert expected.kl_ref is not None
    shift = evenly(torch.full((3, 20), 300.0, dtype=torch.float64), given.read)
    log_prob = given.theta.clone().requires_grad_()
    beside = replace(given, theta=given.theta + shift, theta_log_prob=log_prob, ref_log_prob=given.ref)
    loss, found = gdsd_loss(beside, advantages, penalty("centred"))
    torch.testing.assert_close(found.kl_ref, expected.kl_ref)
    # theta - ref = d; L = 4 tokens share d (sum over tokens d)^2 / (2 L), mean over 3 pairs: 0.1 * 4 d / 4 / 3 each.
    assert given.ref is not None
    (gradient,) = torch.autograd.grad(loss, log_prob)
    torch.testing.assert_close(gradient * given.read, 0.1 * (given.theta - given.ref) / 3)


@pytest.mark.parametrize("length", [2, 4, 16])
def test_first_pull_of_both_forms(length: int) -> None:
    """If it fails, a `reference_weight` that was found with one form means something else with the other.

    Where theta = old and A = 0, the form `optimum` has the gradient 2 beta (d_old - d_ref) by a score d, and the
    penalty, beta (L (d - d_ref))^2 / (2 L), has beta L (d_old - d_ref): L / 2 times as much.
    """
    given, advantages = example(length)
    pulls = []
    forms: tuple[Form, ...] = ("optimum", "penalty")
    for form in forms:
        theta = given.old.clone().requires_grad_()
        loss, _ = gdsd_loss(
            replace(given, theta=theta), torch.zeros_like(advantages), settings(reference_weight=0.1, form=form)
        )
        pulls.append(torch.autograd.grad(loss, theta)[0])
    assert pulls[0].abs().max().item() > 0.01 / length
    torch.testing.assert_close(pulls[1], pulls[0] * length / 2)


def test_the_baseline_leaves_the_penalty_alone() -> None:
    """If it fails, a whole group may drift from the base policy at no cost."""
    given, advantages = example()
    zero, group = (gdsd_loss(given, advantages, config)[1].kl_ref for config in (penalty(), penalty(baseline="group")))
    assert zero is not None
    torch.testing.assert_close(group, zero)
