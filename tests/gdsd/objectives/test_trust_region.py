"""The trust region of the GDSD loss: it stops what has moved far enough, and nothing else."""

from typing import Literal

import pytest
import torch

from tasks.gdsd.config.objective import GdsdConfig
from tasks.gdsd.objectives import LossMetrics
from tasks.gdsd.objectives.gdsd import gdsd_loss
from tests.gdsd.objectives.examples import from_pair_scores


def settings(trust_region: float | None = 0.1, baseline: Literal["zero", "group"] = "zero") -> GdsdConfig:
    return GdsdConfig(
        trust_region=trust_region, reference_weight=0, guidance=0.5, baseline=baseline, mask_source="random"
    )


def gradient(
    theta: list[float], old: list[float], advantages: list[float], config: GdsdConfig, length: int = 4
) -> tuple[list[float], LossMetrics]:
    """The gradient of the loss by each completion's per-token score, with one pair and one group."""
    scores = torch.tensor([theta], dtype=torch.float64, requires_grad=True)
    given = from_pair_scores(scores, torch.tensor([old], dtype=torch.float64), group_size=len(theta), length=length)
    loss, metrics = gdsd_loss(given, torch.tensor(advantages, dtype=torch.float64), config)
    (found,) = torch.autograd.grad(loss, scores)
    return found[0].tolist(), metrics


@pytest.mark.parametrize("sign", [1, -1])
def test_by_hand(sign: int) -> None:
    """If it fails, answers are pushed on after they have moved far enough, or are not brought back.

    psi = 0.5 and A = +-1 put the target at old +- 0.5; the trust region is 0.1. By d_theta - old, in the direction of
    the target:

        0.05   within the region                2 * (0.05 - 0.5) = -0.9
        0.2    beyond it, towards the target    stopped: 0
       -0.2    drifted the wrong way            2 * (-0.2 - 0.5) = -1.4
        0.7    past the target                  2 * (0.7 - 0.5) = 0.4
    """
    shifts = [0.05, 0.2, -0.2, 0.7]
    found, metrics = gradient([-1 + sign * shift for shift in shifts], [-1.0] * 4, [float(sign)] * 4, settings())
    assert found == pytest.approx([sign * value for value in (-0.9, 0.0, -1.4, 0.4)])
    assert found[1] == 0
    assert metrics.clipped is not None and metrics.clipped.item() == 1
    assert metrics.residual_abs is not None and metrics.residual_abs.item() == pytest.approx(0.45 + 0.3 + 0.7 + 0.2)
    assert metrics.shift_abs.item() == pytest.approx(0.05 + 0.2 + 0.2 + 0.7)


def test_without_a_region_nothing_is_stopped_or_reported() -> None:
    """If it fails, the default is no longer the plain regression."""
    arguments = ([-0.8, -1.2], [-1.0, -1.0], [1.0, -1.0])
    found, metrics = gradient(*arguments, settings(None))
    assert found == pytest.approx([2 * (0.2 - 0.5), 2 * (-0.2 + 0.5)]) and metrics.clipped is None
    wide, metrics = gradient(*arguments, settings(0.3))
    assert wide == found and metrics.clipped is not None and metrics.clipped.item() == 0


@pytest.mark.parametrize("length", [1, 4, 64])
def test_the_region_is_per_token(length: int) -> None:
    """If it fails, long completions are stopped at once: of the sum over L tokens, the same shift is L times as large.

    Every token shifts by 0.05, or by 0.2, whatever L: the first stays within 0.1, the second does not.
    """
    found, _ = gradient([-0.95, -0.8], [-1.0, -1.0], [1.0, 1.0], settings(), length)
    assert found == pytest.approx([-0.9, 0.0])


def test_the_baseline_decides_what_a_completion_is_pulled_to() -> None:
    """If it fails, the region stops completions that the group's baseline pulls back, or lets others run.

    Both scores rise by 0.2; the targets are old +- 0.5, so the residuals are (-0.3, 0.7), less their mean 0.2
    (-0.5, 0.5). The first is pulled on and stopped, the second is pulled back with its full gradient 2 * 0.5.
    """
    found, metrics = gradient([-0.8, -0.8], [-1.0, -1.0], [1.0, -1.0], settings(baseline="group"))
    assert found == pytest.approx([0.0, 1.0])
    assert metrics.clipped is not None and metrics.clipped.item() == 1


def test_each_pair_is_stopped_on_its_own() -> None:
    """If it fails, one far pair of masks stops the others, or `clip/frac` counts them wrongly.

    Two pairs, of which only the second has moved beyond the region: half of the completion's gradient remains,
    2 * (0.05 - 0.5) / 2 as a mean over pairs, and half of it counts as stopped.
    """
    scores = torch.tensor([[-0.95], [-0.8]], dtype=torch.float64, requires_grad=True)
    given = from_pair_scores(scores, torch.full((2, 1), -1.0, dtype=torch.float64), group_size=1)
    loss, metrics = gdsd_loss(given, torch.ones(1, dtype=torch.float64), settings())
    torch.testing.assert_close(
        torch.autograd.grad(loss, scores)[0], torch.tensor([[-0.45], [0.0]], dtype=torch.float64)
    )
    assert metrics.clipped is not None and metrics.clipped.item() == 0.5
