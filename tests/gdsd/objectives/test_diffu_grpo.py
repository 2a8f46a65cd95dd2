"""diffu-GRPO's loss, against hand calculation."""

import math

import pytest
import torch

from tasks.gdsd.config.objective import DiffuGrpoConfig
from tasks.gdsd.objectives.diffu_grpo import diffu_grpo_loss
from tests.gdsd.objectives.examples import scores, whole

OLD = torch.full((1, 2, 2), -2.0, dtype=torch.float64)
RATIOS = torch.tensor([[[1.25, 1.75], [0.25, 2.0]]], dtype=torch.float64)
ADVANTAGES = torch.tensor([1.0, -1.0], dtype=torch.float64)


def test_by_hand() -> None:
    """If it fails, diffu-GRPO is compared with under another objective than the published one.

    epsilon = 0.5. A = 1: the ratio 1.25 counts, 1.75 is stopped at 1.5, mean 1.375. A = -1: 0.25 is stopped at 0.5,
    while 2 has gone the wrong way and counts, mean -1.25. The loss is -1.375 + 1.25; half of each completion's tokens
    are stopped; the gradient is -ratio * A / L for the others. Per token, log-ratios are half of ln(1.25 * 1.75) and of
    ln(0.25 * 2).
    """
    theta = (OLD + RATIOS.log()).requires_grad_()
    config = DiffuGrpoConfig(clip=0.5, kl_weight=0)
    loss, metrics = diffu_grpo_loss(scores(whole(1, 2, 2), theta, OLD), ADVANTAGES, config)
    assert loss.item() == pytest.approx(-0.125)
    assert metrics.clipped is not None and metrics.clipped.item() == 1
    assert metrics.shift_abs.item() == pytest.approx((math.log(1.25 * 1.75) + math.log(2)) / 2)
    (found,) = torch.autograd.grad(loss, theta)
    torch.testing.assert_close(found, torch.tensor([[[-0.625, 0], [0, 1.0]]], dtype=torch.float64))


def test_the_penalty_by_hand() -> None:
    """If it fails, the KL term is another estimator, or pushes away from the base policy.

    k3 = r - ln r - 1 with r = p_ref / p = 1 / ratio, here for ref = old, a mean over the tokens of each completion; its
    gradient in log p is 1 - r.
    """
    theta = (OLD + RATIOS.log()).requires_grad_()
    config = DiffuGrpoConfig(kl_weight=0.04)
    loss, metrics = diffu_grpo_loss(scores(whole(1, 2, 2), theta, OLD, ref=OLD), 0 * ADVANTAGES, config)
    expected = sum(1 / ratio + math.log(ratio) - 1 for ratio in (1.25, 1.75, 0.25, 2.0)) / 2
    assert metrics.kl_ref is not None and metrics.kl_ref.item() == pytest.approx(expected)
    assert loss.item() == pytest.approx(0.04 * expected)
    (found,) = torch.autograd.grad(loss, theta)
    torch.testing.assert_close(found, 0.04 * (1 - 1 / RATIOS) / 2)


def test_draws_have_ratios_of_their_own() -> None:
    """If it fails, what one hidden prompt says is clipped by what another says.

    The first token's ratio is 1.4 behind one prompt and 1 / 1.4 behind the other; with epsilon 0.2 and A = 1 the first
    is stopped at 1.2. The mean over draws and two tokens is (1.2 + 1 / 1.4 + 2) / 4, and a quarter is stopped.
    """
    old = OLD.expand(2, 2, 2)
    theta = old.clone()
    theta[:, 0, 0] += torch.tensor([1.0, -1.0], dtype=torch.float64) * math.log(1.4)
    given = scores(whole(2, 2, 2), theta, old, judged=torch.tensor([True, False]))
    loss, metrics = diffu_grpo_loss(given, ADVANTAGES, DiffuGrpoConfig(clip=0.2, kl_weight=0))
    assert loss.item() == pytest.approx(-(1.2 + 1 / 1.4 + 2) / 4)
    assert metrics.clipped is not None and metrics.clipped.item() == pytest.approx(0.25)
