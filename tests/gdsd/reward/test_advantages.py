"""Leave-one-out advantages against hand calculation."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from tasks.gdsd.reward.advantages import leave_one_out

NAN = math.nan


def drawn(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random(shape, np.float32)


@pytest.mark.parametrize(
    "rewards, scale, expected",
    [
        # The others' means are 0.25, 0.75, 0.5, and 0.5, 0.5, 0.
        ([[1.0, 0.0, 0.5], [0.0, 0.0, 1.0]], False, [[0.75, -0.75, 0.0], [-0.5, -0.5, 1.0]]),
        # Mean 0.5, variance (0.25 + 0.25 + 0) / 2 = 0.25, deviation 0.5.
        ([[1.0, 0.0, 0.5]], True, [[1.5, -1.5, 0.0]]),
        # Variance (3/16 + 9/16) / 3 = 1/4, deviation 0.5, and advantages -1/3, -1/3, -1/3, 1.
        ([[0.0, 0.0, 0.0, 1.0]], True, [[-2 / 3, -2 / 3, -2 / 3, 2.0]]),
        # What could not be judged is in no baseline: the others' means are 0 and 1; the deviation of 1, 0 is sqrt(0.5).
        ([[1.0, NAN, 0.0], [1.0, 0.0, 0.5]], False, [[1.0, NAN, -1.0], [0.75, -0.75, 0.0]]),
        ([[1.0, NAN, 0.0]], True, [[math.sqrt(2), NAN, -math.sqrt(2)]]),
        # A lone verdict has nothing to be compared with.
        ([[0.7, NAN, NAN], [NAN, NAN, NAN]], False, [[NAN, NAN, NAN], [NAN, NAN, NAN]]),
        ([[0.7, NAN, NAN], [NAN, NAN, NAN]], True, [[NAN, NAN, NAN], [NAN, NAN, NAN]]),
        ([[0.1, NAN, 0.1, 0.1]], False, [[0.0, NAN, 0.0, 0.0]]),
        ([[0.1, NAN, 0.1, 0.1]], True, [[0.0, NAN, 0.0, 0.0]]),
    ],
)
def test_by_hand(rewards: list[list[float]], scale: bool, expected: list[list[float]]) -> None:
    """If it fails, the policy is pushed towards the wrong answers, or an answer that was not judged counts as wrong."""
    found = leave_one_out(np.array(rewards, np.float32), scale)
    assert found.dtype == np.float32
    assert_allclose(found, expected, atol=1e-6, rtol=1e-6)


def test_equals_the_scaled_distance_to_the_mean() -> None:
    """If it fails, guidance means something else than documented.

    r_i - (G m - r_i) / (G - 1) = G / (G - 1) * (r_i - m) for the group's mean m; hence it sums to zero.
    """
    rewards = drawn(0, 50, 6)
    found = leave_one_out(rewards, False)
    assert_allclose(found, 6 / 5 * (rewards - rewards.mean(1, keepdims=True)), atol=1e-6, rtol=1e-5)
    assert_allclose(found.sum(1), 0, atol=1e-5)


@pytest.mark.parametrize("factor, shift", [(10.0, 0.0), (0.01, 0.0), (1.0, 5.0)])
def test_scaled_advantages_ignore_the_unit_of_the_reward(factor: float, shift: float) -> None:
    """If it fails, rescaling a reward changes a training that asked to be free of its scale."""
    rewards = drawn(1, 20, 5)
    other = (factor * rewards + shift).astype(np.float32)
    assert_allclose(leave_one_out(other, True), leave_one_out(rewards, True), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("scale", [False, True])
def test_no_spread_is_exactly_zero(scale: bool) -> None:
    """If it fails, rounding errors count as a signal: groups of equal rewards are trained on, and when scaled blow up.

    Thirds, sixths and so on are not exact in binary, so sums of them round.
    """
    shares = [[part / cells] for cells in range(1, 13) for part in range(cells + 1)]
    for group in (2, 3, 5, 7, 8, 12, 33):
        rewards = np.repeat(np.array(shares, np.float32), group, axis=1)
        assert_array_equal(leave_one_out(rewards, scale), np.zeros_like(rewards), f"group of {group}")


@pytest.mark.parametrize("scale", [False, True])
def test_groups_do_not_see_each_other(scale: bool) -> None:
    """If it fails, sharding or the order of prompts changes advantages."""
    rewards = drawn(2, 6, 4)
    rewards[1, 2] = NAN
    alone = np.concatenate([leave_one_out(group[None], scale) for group in rewards])
    assert_allclose(leave_one_out(rewards, scale), alone, rtol=1e-6)
    order = [2, 0, 3, 1]
    assert_allclose(leave_one_out(rewards[:, order], scale), alone[:, order], rtol=1e-6)
