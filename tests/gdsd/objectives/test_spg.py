"""SPG's loss and bounds, against hand calculation and an enumerable likelihood."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from tasks.gdsd.config.objective import SpgConfig
from tasks.gdsd.objectives.base import pair_scores
from tasks.gdsd.objectives.spg import spg_loss, upper_bound
from tests.gdsd.objectives.examples import coupled, scores

# The first pair hides one of L = 2 tokens in each half, with weight (L + 1) / 1 = 3; the second hides both, with
# weight 3 / 2, and nothing. The first token has probability 1/2 in view 0 and 1/4 in view 2, the second 1/2 in both.
HIDDEN = coupled([[1, 0]] * 2, [[1, 1]] * 2)
LOG_PROB = (torch.tensor([[0.5, 1], [1, 0.5], [0.25, 0.5], [1, 1]], dtype=torch.float64).log())[:, None].expand(4, 2, 2)
LENGTHS = torch.tensor([2, 2])
# Per token: half of (3 log 1/2 + 3 log 1/2) / 2 and of (1.5 log 1/4 + 1.5 log 1/2) / 2, which is -21/8 log 2, over 2.
LOWER = -21 / 16 * math.log(2)
# Means over the four views: (3/2 + 1.5/4) / 4 and (3/2 + 1.5/2) / 4; and of the squares (3/4 + 1.5/16) / 4 and
# (3/4 + 1.5/4) / 4, whose logarithms are halved.
UPPER = {
    1.0: math.log(0.46875 * 0.5625) / 2,
    2.0: math.log(0.2109375 * 0.28125) / 4,
}


@pytest.mark.parametrize("power", UPPER)
def test_the_upper_bound_by_hand(power: float) -> None:
    """If it fails, bad answers are pushed down by another bound than the paper's."""
    found = upper_bound(LOG_PROB, HIDDEN, LENGTHS, power)
    torch.testing.assert_close(found, torch.tensor([UPPER[power]] * 2, dtype=torch.float64))


@pytest.mark.parametrize("power", UPPER)
@pytest.mark.parametrize("mix", [0.0, 0.25, 1.0])
def test_by_hand(power: float, mix: float) -> None:
    """If it fails, good answers are not raised by the ELBO, or bad ones not lowered by the stated mixture.

    With A = (2, -3) the loss is -2 LOWER + 3 (mix UPPER + (1 - mix) LOWER).
    """
    given = scores(HIDDEN, LOG_PROB, LOG_PROB - 0.1)
    loss, metrics = spg_loss(given, torch.tensor([2.0, -3.0]), SpgConfig(eubo_power=power, mix=mix))
    assert loss.item() == pytest.approx(-2 * LOWER + 3 * (mix * UPPER[power] + (1 - mix) * LOWER))
    # 0.1 more for each hidden token moves the ELBO per token by 0.1 * (3 + 3) / 2 / 2 and 0.1 * (1.5 + 1.5) / 2 / 2.
    assert metrics.shift_abs.item() == pytest.approx(0.1 * (1.5 + 0.75) / 2 * 2)


def test_one_pair_has_no_use_for_the_power() -> None:
    """If it fails, the reason for which a single pair is refused is gone: let it be allowed.

    A token hidden in one view only has EUBO_i = log p_i + const: the gradient of the log-probability for any b.
    """
    gradients = []
    for power in (1.0, 3.0):
        theta = LOG_PROB[:2].clone().requires_grad_()
        gradients.append(torch.autograd.grad(upper_bound(theta, HIDDEN[:2], LENGTHS, power).sum(), theta)[0])
    torch.testing.assert_close(*gradients)
    torch.testing.assert_close(gradients[0], HIDDEN[:2] / torch.tensor(2.0, dtype=torch.float64))


def test_improbable_tokens_do_not_underflow() -> None:
    """If it fails, an answer that the policy finds impossible makes the loss infinite or its gradient NaN.

    e^-200 is 0 in float32. All tokens alike have EUBO_i = -200 + log(mean of the weights) / b.
    """
    theta = torch.full((4, 2, 2), -200.0).requires_grad_()
    bound = upper_bound(theta * HIDDEN, HIDDEN, LENGTHS, 1.5)
    torch.testing.assert_close(bound, torch.full((2,), -200 + math.log((3 + 1.5) / 4) / 1.5))
    assert torch.autograd.grad(bound.sum(), theta)[0].isfinite().all()


def all_views() -> Tensor:  # (12, 1, 2) bool
    """Six masks of two tokens, equally likely when their number is uniform over 0..2, with their complements."""
    return coupled(*([[list(mask)] for mask in ((0, 0), (0, 0), (0, 1), (1, 0), (1, 1), (1, 1))]))


def bounds(joint: Tensor, answer: tuple[int, int], power: float) -> tuple[float, float]:
    """ELBO and EUBO of an answer under a denoiser that knows the joint distribution (V, V) of two tokens."""
    first, second = answer
    given_other = [joint[:, second] / joint[:, second].sum(), joint[first] / joint[first].sum()]
    alone = [joint.sum(1), joint.sum(0)]
    hidden = all_views()
    log_prob = torch.zeros(hidden.shape, dtype=torch.float64)
    for view, place in product(range(len(hidden)), range(2)):
        source = alone if hidden[view, 0].all() else given_other
        log_prob[view, 0, place] = source[place][answer[place]].log() * hidden[view, 0, place]
    lengths = torch.tensor([2])
    lower = pair_scores(log_prob, hidden, lengths, "elbo").mean() * 2
    return lower.item(), upper_bound(log_prob, hidden, lengths, power).item() * 2


@pytest.mark.parametrize("seed", range(3))
def test_the_bounds_enclose_the_log_likelihood(seed: int) -> None:
    """If it fails, the estimate that is lowered lies below the likelihood, which then need not fall with it.

    Over all masks of two tokens, for a denoiser whose conditionals are those of one joint distribution p. The ELBO is
    the mean of log p over the orders of unmasking, here log p itself. With a = p(y1), c = p(y1 | y2) and the same of
    y2, the EUBO with b = 1 is log((a + c) / 2) + log((a' + c') / 2) >= log p, since a c' = a' c = p and the means
    exceed the roots of a c and a' c'. It grows with b, as power means do.
    """
    joint = torch.rand(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** 2
    joint = joint / joint.sum()
    for answer in product(range(3), range(3)):
        truth = joint[answer].log().item()
        lower, tight = bounds(joint, answer, 1.0)
        assert lower == pytest.approx(truth)
        assert truth < tight < bounds(joint, answer, 1.5)[1] < bounds(joint, answer, 3.0)[1]


def test_the_bounds_meet_for_independent_tokens() -> None:
    """If it fails, the weights of the views are wrong: masks that say nothing about each other must leave no gap.

    With weights L / x in place of (L + 1) / x, for x uniform over 0..L, both would be off by a factor L / (L + 1).
    """
    joint = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)[:, None] * torch.tensor([0.6, 0.4], dtype=torch.float64)
    for answer in product(range(3), range(2)):
        truth = joint[answer].log().item()
        assert bounds(joint, answer, 1.0) == pytest.approx((truth, truth))
        assert bounds(joint, answer, 1.5) == pytest.approx((truth, truth))
