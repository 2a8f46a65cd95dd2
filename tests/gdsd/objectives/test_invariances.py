"""What all objectives have in common: what must leave them as they are, and what must not."""

import math
from collections.abc import Callable
from dataclasses import astuple, replace

import pytest
import torch
from torch import Tensor

from tasks.gdsd.config.objective import (
    CoupledMasks,
    DiffuGrpoConfig,
    EspoConfig,
    GdsdConfig,
    ObjectiveConfig,
    SpgConfig,
    Wd1Config,
)
from tasks.gdsd.errors import ConfigError
from tasks.gdsd.objectives import Scores, objective_loss
from tests.gdsd.objectives.examples import example, rows

GDSD = GdsdConfig(trust_region=None, guidance=0.5, reference_weight=0, mask_source="random", share_masks=True)


def gdsd(**options: object) -> GdsdConfig:
    return GdsdConfig.model_validate(GDSD.model_dump() | options)


# Without a pull towards the base policy, which moves a policy where no answer is better than another.
FREE: dict[str, ObjectiveConfig] = {
    "gdsd": GDSD,
    "gdsd group": gdsd(baseline="group"),
    "espo": EspoConfig(clip=0.1, kl_weight=0),
    "spg": SpgConfig(),
    "wd1": Wd1Config(),
    "diffu_grpo": DiffuGrpoConfig(clip=0.2, kl_weight=0),
}
# With it. Clips and trust region are narrow enough to stop some of the example, and no more.
PULLED: dict[str, ObjectiveConfig] = {
    "gdsd optimum": gdsd(reference_weight=0.3, form="optimum"),
    "gdsd group optimum": gdsd(reference_weight=0.3, form="optimum", baseline="group"),
    "gdsd penalty": gdsd(reference_weight=0.3, form="penalty", trust_region=0.1),
    "gdsd token penalty": gdsd(reference_weight=0.3, form="token_penalty", trust_region=0.1),
    "espo pulled": EspoConfig(clip=0.1, kl_weight=0.1),
    "diffu_grpo pulled": DiffuGrpoConfig(clip=0.2),
}
ALL = pytest.mark.parametrize("config", (FREE | PULLED).values(), ids=FREE | PULLED)
UNPULLED = pytest.mark.parametrize("config", FREE.values(), ids=FREE)


def given_to(config: ObjectiveConfig) -> tuple[Scores, Tensor]:
    return example("coupled" if isinstance(config, CoupledMasks) else "whole")


def gradient(given: Scores, advantages: Tensor, config: ObjectiveConfig) -> Tensor:  # (C, B, L)
    theta = given.theta.clone().requires_grad_()
    loss, metrics = objective_loss(replace(given, theta=theta), advantages, config)
    assert loss.requires_grad
    assert not any(value.requires_grad for value in astuple(metrics) if value is not None), "a metric keeps its graph"
    return torch.autograd.grad(loss, theta)[0] * given.read


def reported(given: Scores, advantages: Tensor, config: ObjectiveConfig) -> Tensor:
    """The loss and every metric that is reported."""
    loss, metrics = objective_loss(given, advantages, config)
    values = torch.stack([loss, *(value.to(loss) for value in astuple(metrics) if value is not None)])
    assert values.isfinite().all()
    return values


def same(found: Tensor, expected: Tensor) -> None:
    """Up to the rounding of shares that are counted in float32."""
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def of_views(given: Scores, change: Callable[[Tensor], Tensor]) -> Scores:
    assert given.ref is not None
    tensors = {"theta": given.theta, "old": given.old, "ref": given.ref, "read": given.read}
    return replace(given, **{name: change(tensor) for name, tensor in tensors.items()})


@UNPULLED
def test_no_advantage_no_push(config: ObjectiveConfig) -> None:
    """If it fails, a policy drifts although no answer is better than another.

    With A = 0 and theta = old every residual of GDSD and every surrogate is 0, and both softmaxes of wd1 cancel.
    """
    given, advantages = given_to(config)
    at_old = replace(given, theta=given.old)
    assert not gradient(at_old, torch.zeros_like(advantages), config).any()


@UNPULLED
def test_the_first_step_raises_what_is_better(config: ObjectiveConfig) -> None:
    """If it fails, the loss has the wrong sign, and training makes answers worse.

    At theta = old, before any clip, the gradient in the log-probability of every hidden token has the sign of -A. The
    advantages are centred in each group, as wd1's weights always are.
    """
    given, _ = given_to(config)
    advantages = torch.tensor([0.5, -0.5] * 6, dtype=torch.float64)
    found = gradient(replace(given, theta=given.old), advantages, config)
    expected = -advantages.sign()[:, None].expand_as(found)
    assert torch.equal(found.sign()[given.read], expected[given.read])


@pytest.mark.parametrize("name", ["gdsd", "espo", "spg", "diffu_grpo"])
def test_the_first_gradient_is_that_of_the_score(name: str) -> None:
    """If it fails, the first step is no policy gradient, or long completions outweigh short ones.

    At theta = old all ratios are 1 and residuals are -psi A: the gradient is -A, or -2 psi A, times that of the score.
    There a token counts 1 / L, or (L + 1) / (2x) / L in the ELBO where it is among x hidden ones, as a mean over K
    pairs or draws. SPG raises the ELBO of good answers.
    """
    config = FREE[name]
    given, advantages = given_to(config)
    advantages = advantages.abs() if name == "spg" else advantages
    weight = torch.ones_like(given.read, dtype=torch.float64)
    if name in ("espo", "spg"):
        weight = (given.lengths[:, None] + 1) / (2 * given.read.sum(2, keepdim=True).clamp(min=1))
    expected = -advantages[:, None] * weight / given.lengths[:, None] / 2 * given.read  # two pairs, or draws
    found = gradient(replace(given, theta=given.old), advantages, config)
    torch.testing.assert_close(found, 2 * GDSD.guidance * expected if name == "gdsd" else expected)


@ALL
@pytest.mark.parametrize("advantage", [0.0, 7.0, math.nan])
def test_unjudged_sequences_add_nothing(config: ObjectiveConfig, advantage: float) -> None:
    """If it fails, an answer without a verdict trains the policy, moves a baseline, or one NaN spoils the update.

    Dropping the second and third of each group by hand must leave loss, metrics and the others' gradient as they are,
    although their ratios to the old and to the base policy overflow.
    """
    given, advantages = given_to(config)
    judged = torch.tensor([True, False, False, True] * 3)
    advantages = advantages.where(judged, advantage)
    far = torch.tensor([0, 1e4, -1e4, 0] * 3)[:, None]
    given = replace(given, theta=given.theta + far * given.read, judged=judged)
    fewer = rows(given, judged, group_size=2)
    same(reported(given, advantages, config), reported(fewer, advantages[judged], config))
    found = gradient(given, advantages, config)
    assert not found[:, ~judged].any()
    same(found[:, judged], gradient(fewer, advantages[judged], config))


@ALL
def test_a_group_without_any_verdict_adds_nothing(config: ObjectiveConfig) -> None:
    """If it fails, one prompt that cannot be judged makes the whole update NaN."""
    given, advantages = given_to(config)
    judged = torch.arange(12) >= 4
    found = gradient(replace(given, judged=judged), advantages.where(judged, math.nan), config)
    same(found[:, 4:], gradient(rows(given, slice(4, None)), advantages[4:], config))
    assert not found[:, :4].any()


@ALL
def test_the_loss_sums_over_groups(config: ObjectiveConfig) -> None:
    """If it fails, micro-batches do not add up to the whole batch."""
    given, advantages = given_to(config)
    parts = [reported(rows(given, slice(b, b + 4)), advantages[b : b + 4], config) for b in (0, 4, 8)]
    same(torch.stack(parts).sum(0), reported(given, advantages, config))


@ALL
def test_permuting_a_group_changes_nothing(config: ObjectiveConfig) -> None:
    """If it fails, the order in which completions were generated changes training."""
    given, advantages = given_to(config)
    given = replace(given, judged=torch.arange(12) % 5 != 0)
    shuffled = [4 * group + torch.randperm(4, generator=torch.Generator().manual_seed(group)) for group in (2, 0, 1)]
    order = torch.cat(shuffled)
    same(reported(rows(given, order), advantages[order], config), reported(given, advantages, config))


@ALL
def test_padding_changes_nothing(config: ObjectiveConfig) -> None:
    """If it fails, a batch with one longer completion trains its neighbours differently.

    Columns that no view hides are not read, whatever is appended.
    """
    given, advantages = given_to(config)
    padded = of_views(given, lambda tensor: torch.nn.functional.pad(tensor, (0, 3)))
    same(reported(padded, advantages, config), reported(given, advantages, config))


@ALL
def test_repeating_the_views_changes_nothing(config: ObjectiveConfig) -> None:
    """If it fails, more pairs or draws make longer steps, where they should only make quieter ones."""
    given, advantages = given_to(config)
    twice = of_views(given, lambda tensor: tensor.repeat(2, 1, 1))
    same(reported(twice, advantages, config), reported(given, advantages, config))


REPORTED = {
    "gdsd": {"residual_abs"},
    "gdsd optimum": {"residual_abs"},
    "gdsd penalty": {"residual_abs", "clipped", "kl_ref"},
    "espo": {"clipped"},
    "espo pulled": {"clipped", "kl_ref"},
    "spg": set(),
    "wd1": set(),
    "diffu_grpo pulled": {"clipped", "kl_ref"},
}


@pytest.mark.parametrize("name", REPORTED)
def test_only_what_was_estimated_is_reported(name: str) -> None:
    """If it fails, a report shows a divergence or a clip that nobody computed, or leaves one out."""
    config = (FREE | PULLED)[name]
    _, metrics = objective_loss(*given_to(config), config)
    found = {metric for metric, value in vars(metrics).items() if value is not None}
    assert found == REPORTED[name] | {"shift_abs"}


@pytest.mark.parametrize("config", PULLED.values(), ids=PULLED)
def test_a_pull_without_reference_scores_is_refused(config: ObjectiveConfig) -> None:
    """If it fails, a run that asks for a pull towards its base trains silently without one."""
    given, advantages = given_to(config)
    with pytest.raises(ValueError, match=r"(kl|reference)_weight is 0\."):
        objective_loss(replace(given, ref=None), advantages, config)
    assert config.needs_reference and not any(free.needs_reference for free in FREE.values())


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
