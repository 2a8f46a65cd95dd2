"""ESPO's loss and the clip that it shares with diffu-GRPO, against hand calculation."""

import math

import pytest
import torch
from torch import Tensor

from tasks.gdsd.config.objective import EspoConfig
from tasks.gdsd.objectives.clip import clipped_surrogate
from tasks.gdsd.objectives.espo import espo_loss
from tests.gdsd.objectives.examples import coupled, scores

# One pair over two tokens: each half hides one of L = 2, so both count (L + 1) / 1 / 2 = 1.5 in the ELBO.
HALVES = coupled([[1, 0], [1, 0]])
ADVANTAGES = torch.tensor([1.0, -1.0], dtype=torch.float64)


def spread(values: list[list[float]]) -> Tensor:  # (B, L) -> (1, B, L), the same in every view that reads the token
    return torch.tensor(values, dtype=torch.float64)[None]


def test_by_hand() -> None:
    """If it fails, ESPO is compared with under another objective than the published one.

    The ELBO rises by 1.5 * 0.2 = 0.3 for the first completion and falls by 1.5 * 0.4 = 0.6 for the second; per token
    by 0.15 and 0.3. The ratios are e^0.15 = 1.16, inside 1 +- 0.2, and e^-0.3 = 0.74, below 0.8 with A < 0: stopped.
    The loss is -e^0.15 + 0.8. A reference that equals the old policy adds 0.1 * (0.3^2 / 2 + 0.6^2 / 2) / 2.
    """
    old = spread([[-1.0, -1.0], [-1.0, -1.0]])
    theta = spread([[-0.8, -1.0], [-1.0, -1.4]]).requires_grad_()
    loss, metrics = espo_loss(scores(HALVES, theta, old), ADVANTAGES, EspoConfig(clip=0.2, kl_weight=0))
    assert loss.item() == pytest.approx(-math.exp(0.15) + 0.8)
    assert metrics.shift_abs.item() == pytest.approx(0.15 + 0.3)
    assert metrics.clipped is not None and metrics.clipped.item() == 1
    (found,) = torch.autograd.grad(loss, theta)
    torch.testing.assert_close(found, spread([[-math.exp(0.15) * 0.75] * 2, [0.0, 0.0]]))
    with_kl, metrics = espo_loss(scores(HALVES, theta, old, ref=old), ADVANTAGES, EspoConfig(clip=0.2, kl_weight=0.1))
    assert metrics.kl_ref is not None and metrics.kl_ref.item() == pytest.approx((0.045 + 0.18) / 2)
    assert with_kl.item() == pytest.approx(loss.item() + 0.1 * 0.1125)


def test_pairs_are_averaged_before_the_ratio() -> None:
    """If it fails, the noise of single masks goes through the exponential and the clip, which the authors avoid.

    One pair says e^0.15 and the other e^-0.15 of the first completion: together the ELBO has not moved, so the loss is
    -1. The mean of the ratios would be 1.01. What is reported is how far each pair moved.
    """
    old = torch.full((4, 2, 2), -1.0, dtype=torch.float64)
    theta = old.clone()
    theta[0, 0, 0] += 0.2
    theta[2, 0, 0] -= 0.2
    hidden = coupled([[1, 0], [1, 0]], [[1, 0], [1, 0]])
    judged = torch.tensor([True, False])
    loss, metrics = espo_loss(scores(hidden, theta, old, judged=judged), ADVANTAGES, EspoConfig(kl_weight=0))
    assert loss.item() == pytest.approx(-1)
    assert metrics.shift_abs.item() == pytest.approx(0.15)


def test_the_clip_is_the_minimum_of_the_paper() -> None:
    """If it fails, the clip differs from min(ratio * A, clamp(ratio) * A), in value or in gradient."""
    source = torch.Generator().manual_seed(0)
    log_ratio, advantages = torch.randn(2, 1000, generator=source, dtype=torch.float64)
    log_ratio.requires_grad_()
    ratio = log_ratio.exp()
    plain = torch.minimum(ratio * advantages, ratio.clamp(0.7, 1.3) * advantages)
    found, stopped = clipped_surrogate(log_ratio, advantages, 0.3)
    torch.testing.assert_close(found, plain)
    gradients = [torch.autograd.grad(value.sum(), log_ratio)[0] for value in (found, plain)]
    torch.testing.assert_close(*gradients)
    assert torch.equal(stopped, gradients[0] == 0) and 0.2 < stopped.double().mean().item() < 0.8


def test_a_ratio_that_overflows_is_stopped_quietly() -> None:
    """If it fails, one token that has become much more likely makes the gradient of the whole batch NaN."""
    log_ratio = torch.tensor([1e4, 0.0], requires_grad=True)
    surrogate, stopped = clipped_surrogate(log_ratio, torch.ones(2), 0.2)
    assert surrogate[0].item() == pytest.approx(1.2) and stopped.tolist() == [True, False]
    assert torch.autograd.grad(surrogate.sum(), log_ratio)[0].tolist() == [0, 1]
