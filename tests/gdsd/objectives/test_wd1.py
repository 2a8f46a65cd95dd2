"""wd1's loss and weights, against hand calculation."""

import math

import pytest
import torch

from tasks.gdsd.config.objective import Wd1Config
from tasks.gdsd.objectives.wd1 import group_weights, wd1_loss
from tests.gdsd.objectives.examples import scores, whole

ALL_JUDGED = torch.tensor([True, True])


def test_by_hand() -> None:
    """If it fails, wd1 is compared with under another objective than the published one.

    A = +-(ln 3) / 2 makes the softmaxes (3/4, 1/4) and (1/4, 3/4): w+ - w- = (1/2, -1/2), and n = 2 times that is
    (1, -1). The mean log-probabilities per token are -1.5 and -1, so the loss is 1.5 - 1 = 0.5. Each of two tokens gets
    half of the weight. The old scores are 0.25 and 0 per token away.
    """
    theta = torch.tensor([[[-1.0, -2.0], [-1.0, -1.0]]], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([[[-1.0, -1.5], [-1.5, -0.5]]], dtype=torch.float64)
    advantages = torch.tensor([1.0, -1.0], dtype=torch.float64) * math.log(3) / 2
    loss, metrics = wd1_loss(scores(whole(1, 2, 2), theta, old), advantages, Wd1Config())
    assert loss.item() == pytest.approx(0.5)
    assert metrics.shift_abs.item() == pytest.approx(0.25)
    (found,) = torch.autograd.grad(loss, theta)
    torch.testing.assert_close(found, torch.tensor([[[-0.5, -0.5], [0.5, 0.5]]], dtype=torch.float64))


def test_the_weights_are_softmaxes_of_the_group() -> None:
    """If it fails, completions are weighed against those of other prompts, or `guidance` has another meaning.

    Two completions have w+ - w- = tanh(psi * (A_1 - A_2) / 2), times n = 2.
    """
    advantages = torch.tensor([0.3, -0.3, 2.0, 1.0], dtype=torch.float64)
    found = group_weights(advantages, torch.tensor([True] * 4), 2, guidance=1.5)
    expected = [2 * math.tanh(1.5 * half) for half in (0.3, -0.3, 0.5, -0.5)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_large_advantages_saturate() -> None:
    """If it fails, a reward on a large scale makes weights overflow. All weight goes to the best and the worst."""
    found = group_weights(torch.tensor([500.0, -500.0]), ALL_JUDGED, 2, guidance=10.0)
    assert found.tolist() == [2, -2]


def test_the_softmax_runs_over_judged_rows() -> None:
    """If it fails, an answer without a verdict takes weight from the others.

    Without the second, the first and third are a group of two with n (w+ - w-) = +-2 tanh(1/2).
    """
    judged = torch.tensor([True, False, True, False, False, False])
    advantages = torch.tensor([1.0, math.nan, 0.0, math.nan, math.nan, 1.0], dtype=torch.float64)
    found = group_weights(advantages, judged, 3, guidance=1.0)
    weight = 2 * math.tanh(0.5)
    torch.testing.assert_close(found, torch.tensor([weight, 0, -weight, 0, 0, 0], dtype=torch.float64))
