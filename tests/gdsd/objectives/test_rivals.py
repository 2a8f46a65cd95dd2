"""What all rival objectives have in common: what must leave them as they are, and what must not."""

import math
from collections.abc import Callable
from dataclasses import astuple, replace

import pytest
import torch
from torch import Tensor

from tasks.gdsd.config.objective import DiffuGrpoConfig, EspoConfig, ObjectiveConfig, SpgConfig, Wd1Config
from tasks.gdsd.errors import ConfigError
from tasks.gdsd.objectives import Scores, objective_loss
from tests.gdsd.objectives.rivals import example, rows

# The clips are narrow enough to stop some of the example, and no more.
RIVALS: dict[str, ObjectiveConfig] = {
    "espo": EspoConfig(clip=0.1, kl_weight=0.1),
    "spg": SpgConfig(),
    "wd1": Wd1Config(),
    "diffu_grpo": DiffuGrpoConfig(clip=0.2),
}
WITHOUT_KL: dict[str, ObjectiveConfig] = {
    **RIVALS,
    "espo": EspoConfig(clip=0.1, kl_weight=0),
    "diffu_grpo": DiffuGrpoConfig(clip=0.2, kl_weight=0),
}
ALL = pytest.mark.parametrize("name", RIVALS)


def given_to(name: str) -> tuple[Scores, Tensor]:
    return example("coupled" if name in ("espo", "spg") else "whole")


def gradient(given: Scores, advantages: Tensor, config: ObjectiveConfig) -> Tensor:  # (C, B, L)
    theta = given.theta.clone().requires_grad_()
    loss, _ = objective_loss(replace(given, theta=theta), advantages, config)
    return torch.autograd.grad(loss, theta)[0]


def reported(given: Scores, advantages: Tensor, config: ObjectiveConfig) -> Tensor:
    """The loss and every metric that is reported."""
    loss, metrics = objective_loss(given, advantages, config)
    values = torch.stack([loss, *(value.to(loss) for value in astuple(metrics) if value is not None)])
    assert values.isfinite().all()
    return values


def same(found: Tensor, expected: Tensor) -> None:
    """Up to the rounding of shares that are counted in float32."""
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


@ALL
def test_no_advantage_no_push(name: str) -> None:
    """If it fails, a policy drifts although no answer is better than another.

    With A = 0 every surrogate is 0; with equal advantages both softmaxes of wd1 are uniform and cancel.
    """
    given, advantages = given_to(name)
    assert not gradient(given, torch.zeros_like(advantages), WITHOUT_KL[name]).any()


@ALL
def test_the_first_step_raises_what_is_better(name: str) -> None:
    """If it fails, the loss has the wrong sign, and training makes answers worse.

    At theta = old, before any clip, the gradient in the log-probability of every hidden token has the sign of -A. The
    advantages are centred in each group, as wd1's weights always are.
    """
    given, _ = given_to(name)
    advantages = torch.tensor([0.5, -0.5] * 6, dtype=torch.float64)
    found = gradient(replace(given, theta=given.old), advantages, WITHOUT_KL[name])
    expected = -advantages.sign()[:, None].expand_as(found)
    assert torch.equal(found.sign()[given.hidden], expected[given.hidden])


@ALL
@pytest.mark.parametrize("advantage", [0.0, 7.0, math.nan])
def test_unjudged_sequences_add_nothing(name: str, advantage: float) -> None:
    """If it fails, an answer without a verdict trains the policy, or one NaN spoils the update.

    Dropping the second and third of each group by hand must leave loss, metrics and the others' gradient as they are,
    although their ratios to the old and to the base policy overflow.
    """
    given, advantages = given_to(name)
    judged = torch.tensor([True, False, False, True] * 3)
    advantages = advantages.where(judged, advantage)
    far = torch.tensor([0, 1e4, -1e4, 0] * 3)[:, None]
    given = replace(given, theta=given.theta + far * given.hidden, judged=judged)
    fewer = rows(given, judged, group_size=2)
    config = RIVALS[name]
    same(reported(given, advantages, config), reported(fewer, advantages[judged], config))
    found = gradient(given, advantages, config)
    assert not found[:, ~judged].any()
    same(found[:, judged], gradient(fewer, advantages[judged], config))


@ALL
def test_a_group_without_any_verdict_adds_nothing(name: str) -> None:
    """If it fails, one prompt that cannot be judged makes the whole update NaN."""
    given, advantages = given_to(name)
    judged = torch.arange(12) >= 4
    config = RIVALS[name]
    found = gradient(replace(given, judged=judged), advantages.where(judged, math.nan), config)
    same(found[:, 4:], gradient(rows(given, slice(4, None)), advantages[4:], config))
    assert not found[:, :4].any()


@ALL
def test_the_loss_sums_over_groups(name: str) -> None:
    """If it fails, micro-batches do not add up to the whole batch."""
    given, advantages = given_to(name)
    config = RIVALS[name]
    parts = [reported(rows(given, slice(b, b + 4)), advantages[b : b + 4], config) for b in (0, 4, 8)]
    same(torch.stack(parts).sum(0), reported(given, advantages, config))


@ALL
def test_permuting_a_group_changes_nothing(name: str) -> None:
    """If it fails, the order in which completions were generated changes training."""
    given, advantages = given_to(name)
    given = replace(given, judged=torch.arange(12) % 5 != 0)
    shuffled = [4 * group + torch.randperm(4, generator=torch.Generator().manual_seed(group)) for group in (2, 0, 1)]
    order = torch.cat(shuffled)
    config = RIVALS[name]
    same(reported(rows(given, order), advantages[order], config), reported(given, advantages, config))


@ALL
def test_padding_changes_nothing(name: str) -> None:
    """If it fails, a batch with one longer completion trains its neighbours differently.

    Columns that no view hides are not read, whatever is appended.
    """
    given, advantages = given_to(name)
    assert given.ref is not None
    padded = replace(
        given,
        theta=torch.nn.functional.pad(given.theta, (0, 3)),
        old=torch.nn.functional.pad(given.old, (0, 3)),
        ref=torch.nn.functional.pad(given.ref, (0, 3)),
        hidden=torch.nn.functional.pad(given.hidden, (0, 3)),
    )
    same(reported(padded, advantages, RIVALS[name]), reported(given, advantages, RIVALS[name]))


@ALL
def test_repeating_the_views_changes_nothing(name: str) -> None:
    """If it fails, more pairs or draws make longer steps, where they should only make quieter ones."""
    given, advantages = given_to(name)
    assert given.ref is not None
    twice = replace(
        given,
        theta=given.theta.repeat(2, 1, 1),
        old=given.old.repeat(2, 1, 1),
        ref=given.ref.repeat(2, 1, 1),
        hidden=given.hidden.repeat(2, 1, 1),
    )
    same(reported(twice, advantages, RIVALS[name]), reported(given, advantages, RIVALS[name]))


@ALL
def test_metrics_hold_no_graph(name: str) -> None:
    """If it fails, every reported number keeps the activations of its step in memory."""
    given, advantages = given_to(name)
    loss, metrics = objective_loss(replace(given, theta=given.theta.clone().requires_grad_()), advantages, RIVALS[name])
    assert loss.requires_grad
    assert not any(value.requires_grad for value in vars(metrics).values() if value is not None)
    assert (metrics.clipped is None) == (metrics.kl_ref is None) == (name in ("spg", "wd1"))


CHANGES: list[tuple[str, dict[str, float]]] = [
    ("espo", {"clip": 0.2}),
    ("espo", {"clip": 0}),
    ("espo", {"kl_weight": 0.2}),
    ("spg", {"eubo_power": 1.0}),
    ("spg", {"mix": 0.0}),
    ("spg", {"mix": 1.0}),
    ("wd1", {"guidance": 2.0}),
    ("diffu_grpo", {"clip": 0.1}),
    ("diffu_grpo", {"kl_weight": 0.08}),
]


@pytest.mark.parametrize("name, change", CHANGES)
def test_every_option_changes_the_gradient(name: str, change: dict[str, float]) -> None:
    """If it fails, an option is a dead switch: runs that differ in it are the same run."""
    given, advantages = given_to(name)
    before = gradient(given, advantages, RIVALS[name])
    after = gradient(given, advantages, RIVALS[name].model_copy(update=change))
    assert (after - before).norm() > 0.01 * before.norm()


@pytest.mark.parametrize("name", ["espo", "diffu_grpo"])
def test_a_penalty_without_reference_scores_is_refused(name: str) -> None:
    """If it fails, a run that asks for a pull towards its base trains silently without one."""
    given, advantages = given_to(name)
    with pytest.raises(ValueError, match=r"kl_weight is 0\."):
        objective_loss(replace(given, ref=None), advantages, RIVALS[name])
    objective_loss(replace(given, ref=None), advantages, WITHOUT_KL[name])
    assert RIVALS[name].needs_reference and not WITHOUT_KL[name].needs_reference


@pytest.mark.parametrize(
    "read, text, reason",
    [
        (SpgConfig.model_validate_json, '{"mask_pairs": 1}', "mask_pairs"),
        (Wd1Config.model_validate_json, '{"mask_draws": 2, "prompt_mask_rate": 0}', "mask_draws 2"),
        (DiffuGrpoConfig.model_validate_json, '{"mask_draws": 2, "prompt_mask_rate": 0}', "mask_draws 2"),
    ],
)
def test_combinations_without_effect_are_refused(
    read: Callable[[str], ObjectiveConfig], text: str, reason: str
) -> None:
    """If it fails, a run pays for views, or sets an option, that cannot change its result."""
    with pytest.raises(ConfigError, match=reason):
        read(text)
