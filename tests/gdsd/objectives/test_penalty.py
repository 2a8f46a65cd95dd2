"""The KL penalty of the GDSD loss: its amount, and that it is of probabilities whatever the readout."""

from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from tasks.gdsd.config.objective import GdsdConfig
from tasks.gdsd.objectives import Scores
from tasks.gdsd.objectives.gdsd import gdsd_loss
from tests.gdsd.readings import evenly, from_pair_scores


def settings(
    form: Literal["optimum", "penalty"] = "penalty",
    readout: Literal["log_prob", "centred"] = "log_prob",
    reference_weight: float = 0.1,
    baseline: Literal["zero", "group"] = "zero",
) -> GdsdConfig:
    return GdsdConfig(
        trust_region=None,
        form=form,
        readout=readout,
        reference_weight=reference_weight,
        baseline=baseline,
        mask_source="random",
    )


def example(length: int = 4) -> tuple[Scores, Tensor]:
    source = torch.Generator().manual_seed(0)
    theta, old, ref = torch.randn(3, 2, 6, generator=source, dtype=torch.float64)
    given = from_pair_scores(theta, old, ref, group_size=3, length=length)
    return given, torch.randn(6, generator=source, dtype=torch.float64)


def test_by_hand() -> None:
    """If it fails, the pull towards the base policy has another strength than documented.

    One pair, L = 4, psi = 0.5, A = (1, -1), old = (-1, -2): targets (-0.5, -2.5). With theta = (-0.75, -2) the squared
    residuals are 0.0625 + 0.25. Against ref = (-1, -1.5) the summed log-ratios are 4 * (0.25, -0.5) = (1, -2), so
    k2 / L = 1/2 (1, 4) / 4 = (0.125, 0.5). The loss is 0.3125 + 0.1 * 0.625 = 0.375.
    """
    given = from_pair_scores(torch.tensor([[-0.75, -2.0]]), torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.0, -1.5]]))
    loss, metrics = gdsd_loss(given, torch.tensor([1.0, -1.0]), settings())
    assert loss.item() == pytest.approx(0.375)
    assert metrics.kl_ref is not None and metrics.kl_ref.item() == pytest.approx(0.625)
    assert metrics.residual_abs is not None and metrics.residual_abs.item() == pytest.approx(0.75), "no part of it"


@pytest.mark.parametrize("readout", ["log_prob", "centred"])
def test_without_a_penalty_none_is_reported(readout: Literal["log_prob", "centred"]) -> None:
    """If it fails, a report shows a divergence that nobody estimated."""
    given, advantages = example()
    assert gdsd_loss(given, advantages, settings("optimum", readout))[1].kl_ref is None


def test_the_penalty_is_of_log_probabilities_whatever_the_readout() -> None:
    """If it fails, training with a centred readout is dominated by a penalty on a scale without meaning.

    Centred readouts may all grow while the policy stays as it is. With log-probabilities beside them, the penalty and
    its gradient are those of the readout `log_prob`, and a shift of the centred readouts changes neither.
    """
    given, advantages = example()
    _, expected = gdsd_loss(given, advantages, settings())
    assert expected.kl_ref is not None
    shift = evenly(torch.full((2, 6), 300.0, dtype=torch.float64), given.hidden)
    log_prob = given.theta.clone().requires_grad_()
    beside = replace(given, theta=given.theta + shift, theta_log_prob=log_prob, ref_log_prob=given.ref)
    loss, found = gdsd_loss(beside, advantages, settings(readout="centred"))
    torch.testing.assert_close(found.kl_ref, expected.kl_ref)
    # theta - ref = d; L = 4 tokens share d (sum over tokens d)^2 / (2 L), mean over 2 pairs: 0.1 * 4 d / 4 / 2 each.
    difference = given.theta - (given.ref if given.ref is not None else 0)
    (gradient,) = torch.autograd.grad(loss, log_prob)
    torch.testing.assert_close(gradient * given.hidden, 0.1 * difference / 2)


@pytest.mark.parametrize("length", [2, 4, 16])
def test_first_pull_of_both_forms(length: int) -> None:
    """If it fails, a `reference_weight` that was found with one form means something else with the other.

    Where theta = old and A = 0, the form `optimum` has the gradient 2 beta (d_old - d_ref) by a score d, and the
    penalty, beta (L (d - d_ref))^2 / (2 L), has beta L (d_old - d_ref): L / 2 times as much.
    """
    given, advantages = example(length)
    pulls = []
    for form in ("optimum", "penalty"):
        theta = given.old.clone().requires_grad_()
        loss, _ = gdsd_loss(replace(given, theta=theta), torch.zeros_like(advantages), settings(form))
        pulls.append(torch.autograd.grad(loss, theta)[0])
    assert pulls[0].abs().max().item() > 0.01 / length
    torch.testing.assert_close(pulls[1], pulls[0] * length / 2)


def test_the_baseline_leaves_the_penalty_alone() -> None:
    """If it fails, a whole group may drift from the base policy at no cost."""
    given, advantages = example()
    zero, group = (
        gdsd_loss(given, advantages, settings(baseline=baseline))[1].kl_ref for baseline in ("zero", "group")
    )
    torch.testing.assert_close(group, zero)


def test_unjudged_sequences_add_no_penalty() -> None:
    """If it fails, an answer without a verdict trains the policy."""
    given, advantages = example()
    judged = torch.tensor([True, False, True, False, False, False])
    theta = given.theta.clone().requires_grad_()
    loss, _ = gdsd_loss(replace(given, theta=theta, judged=judged), advantages, settings())
    assert not torch.autograd.grad(loss, theta)[0][:, ~judged].any()
