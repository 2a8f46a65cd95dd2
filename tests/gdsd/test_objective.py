"""The GDSD loss against hand calculation and against the optimum that it is derived from."""

import math
from dataclasses import astuple, replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from tasks.gdsd.config import GdsdConfig
from tasks.gdsd.objectives import Scores, gdsd_loss

Baseline = Literal["zero", "group"]
BASELINES: list[Baseline] = ["zero", "group"]


def settings(baseline: Baseline = "zero", guidance: float = 0.5, reference_weight: float = 0.0) -> GdsdConfig:
    return GdsdConfig(
        guidance=guidance, reference_weight=reference_weight, baseline=baseline, mask_source="random", share_masks=True
    )


def scores(
    theta: Tensor, old: Tensor, ref: Tensor | None = None, judged: Tensor | None = None, group_size: int = 2
) -> Scores:
    if judged is None:
        judged = torch.ones(theta.shape[1], dtype=torch.bool)
    return Scores(theta=theta, old=old, ref=ref, judged=judged, group_size=group_size)


def example(pairs: int = 3, prompts: int = 4, group_size: int = 5) -> tuple[Scores, Tensor]:
    """Random scores and advantages in float64; values of order 1."""
    source = torch.Generator().manual_seed(0)
    theta, old, ref = torch.randn(3, pairs, prompts * group_size, generator=source, dtype=torch.float64)
    advantages = torch.randn(prompts * group_size, generator=source, dtype=torch.float64)
    return scores(theta, old, ref, group_size=group_size), advantages


def test_by_hand() -> None:
    """If it fails, the policy is regressed onto another target than the documented one.

    One pair, one group of two, psi = 0.5, A = (1, -1), old = (-1, -2), so the targets are (-0.5, -2.5). With
    theta = (-0.75, -2) the residuals are (-0.25, 0.5) and the loss is 0.0625 + 0.25 = 0.3125. Their mean is 0.125, so
    the baseline `group` leaves (-0.375, 0.375) and 2 * 0.140625 = 0.28125. Shifts are |0.25| + |0| = 0.25.
    """
    given = scores(torch.tensor([[-0.75, -2.0]]), torch.tensor([[-1.0, -2.0]]))
    advantages = torch.tensor([1.0, -1.0])
    loss, metrics = gdsd_loss(given, advantages, settings("zero"))
    assert loss.item() == pytest.approx(0.3125)
    assert metrics.residual_abs.item() == pytest.approx(0.75)
    assert metrics.shift_abs.item() == pytest.approx(0.25)
    loss, metrics = gdsd_loss(given, advantages, settings("group"))
    assert loss.item() == pytest.approx(0.28125)
    assert metrics.residual_abs.item() == pytest.approx(0.75)
    assert metrics.shift_abs.item() == pytest.approx(0.25)


def test_the_loss_sums_over_pairs_and_groups() -> None:
    """If it fails, micro-batches do not add up to the whole batch."""
    given, advantages = example()
    for baseline in BASELINES:
        whole, metrics = gdsd_loss(given, advantages, settings(baseline))
        parts = [
            gdsd_loss(
                scores(given.theta[k : k + 1, b : b + 5], given.old[k : k + 1, b : b + 5], group_size=5),
                advantages[b : b + 5],
                settings(baseline),
            )
            for k in range(3)
            for b in range(0, 20, 5)
        ]
        torch.testing.assert_close(sum(loss for loss, _ in parts), whole)
        torch.testing.assert_close(sum(part.residual_abs for _, part in parts), metrics.residual_abs)
        torch.testing.assert_close(sum(part.shift_abs for _, part in parts), metrics.shift_abs)


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

    d/d theta (theta - t)^2 = 2 (theta - t). With the baseline `group`, r - mean(r) is a projection, symmetric and
    idempotent, so the gradient of |P r|^2 is 2 P r.
    """
    given, advantages = example()
    theta = given.theta.clone().requires_grad_()
    residual = given.theta - (given.old + 0.5 * advantages)
    loss, _ = gdsd_loss(replace(given, theta=theta), advantages, settings("zero"))
    torch.testing.assert_close(torch.autograd.grad(loss, theta)[0], 2 * residual)
    loss, _ = gdsd_loss(replace(given, theta=theta), advantages, settings("group"))
    groups = residual.view(3, 4, 5)
    torch.testing.assert_close(
        torch.autograd.grad(loss, theta)[0], 2 * (groups - groups.mean(2, keepdim=True)).view(3, 20)
    )


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
    shifted = replace(given, theta=given.theta + shift.expand(3, 4, 5).reshape(3, 20))
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
    fewer = scores(theta[:, judged], given.old[:, judged], group_size=4)
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
    first = scores(given.theta[:, :5], given.old[:, :5], group_size=5)
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
    assert given.ref is not None
    judged = torch.rand(20, generator=torch.Generator().manual_seed(2)) < 0.8
    order = torch.cat(
        [5 * group + torch.randperm(5, generator=torch.Generator().manual_seed(group)) for group in (2, 0, 3, 1)]
    )
    moved = Scores(given.theta[:, order], given.old[:, order], given.ref[:, order], judged[order], 5)
    config = settings(baseline, reference_weight=0.1)
    before, metrics = gdsd_loss(replace(given, judged=judged), advantages, config)
    after, moved_metrics = gdsd_loss(moved, advantages[order], config)
    torch.testing.assert_close(after, before)
    torch.testing.assert_close(astuple(moved_metrics), astuple(metrics))


# The enumerable problem: one position, five tokens, pi_old = COUNTS / 16. A group with each token as often as COUNTS
# says makes the sum over sequences 16 times the expectation over pi_old, exactly.
COUNTS = torch.tensor([1, 2, 3, 4, 6])
OLD = (COUNTS / 16).double().log()
TOKENS = torch.arange(5).repeat_interleave(COUNTS)
RAW = torch.tensor([1.0, -0.5, 0.25, 0.8, -1.0], dtype=torch.float64)
ADVANTAGE = RAW - (OLD.exp() * RAW).sum()  # centred, as group baselines make it


def readout(name: str, logits: Tensor) -> Tensor:  # (V,) -> (1, 16)
    normaliser = logits.logsumexp(0) if name == "log_prob" else logits.mean()
    return (logits - normaliser)[TOKENS][None]


def minimise(name: str, baseline: Baseline, guidance: float) -> Tensor:
    """Returns the probabilities (5,) that minimise the loss, by L-BFGS in float64 from pi_old."""
    logits = OLD.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=500, tolerance_grad=1e-14, tolerance_change=1e-18, line_search_fn="strong_wolfe"
    )
    old = readout(name, OLD)

    def closure() -> float:
        optimizer.zero_grad()
        loss, _ = gdsd_loss(
            scores(readout(name, logits), old, group_size=16), ADVANTAGE[TOKENS], settings(baseline, guidance)
        )
        loss.backward()
        return loss.item()

    optimizer.step(closure)
    return logits.detach().softmax(0)


def teacher(guidance: float) -> Tensor:
    return (OLD + guidance * ADVANTAGE).softmax(0)


@pytest.mark.parametrize("guidance", [0.1, 0.4, 2.0])
@pytest.mark.parametrize("name", ["log_prob", "centred"])
def test_closed_form_of_the_group_baseline(name: str, guidance: float) -> None:
    """If it fails, the loss does not solve the problem that it was derived from.

    max E_pi[psi A] - KL(pi || pi_old) has the optimum pi* = softmax(log pi_old + psi A). There log pi* - log pi_old
    - psi A is the same for all tokens, so its variance under pi_old, the loss, is 0; and it is 0 only there, because
    pi_old is positive on all tokens.
    """
    assert (minimise(name, "group", guidance) - teacher(guidance)).abs().sum().item() < 1e-6


@pytest.mark.parametrize("name, order", [("log_prob", 3), ("centred", 1)])
def test_distance_of_the_zero_baseline_from_the_closed_form(name: str, order: int) -> None:
    """If it fails, the documented error of the baseline `zero` is wrong: psi^3 with `log_prob`, psi with `centred`.

    The minimiser weights residuals by pi_old. With `log_prob` the missing normaliser is log E[exp(psi A)], which is
    psi^2 Var(A) / 2 and more for centred A. To first order in the logits' change, a constant residual is orthogonal to
    every change under pi_old, since a change of log pi has mean 0 there; what remains is of third order. Centred scores
    must have mean 0 over the vocabulary, but psi A has mean 0 under pi_old: the two differ at first order.
    """
    guidances = torch.tensor([0.05, 0.1, 0.2], dtype=torch.float64)
    misses = torch.stack([(minimise(name, "zero", psi) - teacher(psi)).abs().sum() for psi in guidances.tolist()])
    slopes = misses.log().diff() / guidances.log().diff()
    torch.testing.assert_close(slopes, torch.full((2,), float(order), dtype=torch.float64), atol=0.25, rtol=0)
