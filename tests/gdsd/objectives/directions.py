"""Objectives in exact expectation on the enumerable problem, and how their updates move its sampler."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.functional import jvp

from tasks.gdsd.config.objective import (
    CoupledMasks,
    DiffuGrpoConfig,
    EspoConfig,
    GdsdConfig,
    ObjectiveConfig,
    PromptMasks,
    SpgConfig,
    Wd1Config,
)
from tasks.gdsd.distill import masking
from tasks.gdsd.distill.masking import Views
from tasks.gdsd.objectives import Scores, objective_loss
from tests.gdsd.objectives.enumerable import (
    COMPLETIONS,
    LENGTH,
    MASK_PROBABILITY,
    MASKS,
    ORDERS,
    UNMASKED_AT,
    any_order,
    read_views,
    sampler,
    steps,
)

# Without their KL penalties: what is compared is the direction that rewards give.
OBJECTIVES: dict[str, ObjectiveConfig] = {
    "gdsd": GdsdConfig(reference_weight=0, mask_source="random"),
    "gdsd group": GdsdConfig(reference_weight=0, mask_source="random", baseline="group"),
    "gdsd elbo": GdsdConfig(reference_weight=0, mask_source="random", weights="elbo"),
    "gdsd trajectory": GdsdConfig(reference_weight=0, mask_source="trajectory"),
    "gdsd path": GdsdConfig(reference_weight=0, mask_source="path", path_states=None),
    "gdsd centred": GdsdConfig(reference_weight=0, mask_source="random", readout="centred"),
    "gdsd centred trajectory": GdsdConfig(reference_weight=0, mask_source="trajectory", readout="centred"),
    "gdsd top 2": GdsdConfig(reference_weight=0, mask_source="random", readout="centred_topk", top_k=2),
    "gdsd top 2 trajectory": GdsdConfig(reference_weight=0, mask_source="trajectory", readout="centred_topk", top_k=2),
    "espo": EspoConfig(mask_pairs=1, kl_weight=0),
    "spg": SpgConfig(),
    "wd1": Wd1Config(),
    "diffu_grpo": DiffuGrpoConfig(kl_weight=0),
}


@dataclass(frozen=True)
class Cases:
    """Everything that an update may be given, as groups one after another, with the probability of each sequence."""

    completions: Tensor  # (B, L)
    advantages: Tensor  # (B,): leave-one-out in groups of two with one solution, hence 1 and -1
    probability: Tensor  # (B,): of a sequence's group and of its views
    views: Views
    group_size: int


def enumerate_cases(config: ObjectiveConfig, old: Tensor, solved: Tensor) -> Cases:
    """Lists groups of two in which one completion is solved; those without spread carry no signal.

    Where sequences count on their own, each stands for itself, with the probability that its partner is of the other
    kind. Where they meet in a group, all pairs are listed, under shared masks.
    """
    joint = sampler(old).detach()  # (27, 6)
    pi = joint.sum(1)
    if isinstance(config, Wd1Config) or (isinstance(config, GdsdConfig) and config.baseline == "group"):
        chosen = torch.cartesian_prod(solved.nonzero()[:, 0], (~solved).nonzero()[:, 0])  # (P, 2)
        weight = pi[chosen].prod(1).repeat_interleave(2)
    else:
        chosen = torch.arange(len(COMPLETIONS))[:, None]
        weight = pi * torch.where(solved, pi[~solved].sum(), pi[solved].sum())
    size, rows = chosen.shape[1], chosen.flatten()
    if isinstance(config, CoupledMasks) and config.mask_source == "path":
        assert size == 1
        masks = torch.zeros(len(ORDERS), 0, LENGTH, dtype=torch.bool)  # as many choices, of which each has all states
        share = (joint / pi[:, None])[rows]  # (27, 6)
    elif isinstance(config, CoupledMasks) and config.mask_source == "trajectory":
        assert size == 1
        order, step = torch.cartesian_prod(torch.arange(len(ORDERS)), torch.arange(LENGTH)).T  # (18,) each
        masks = (UNMASKED_AT[order] >= step[:, None])[:, None]  # (18, K, L)
        share = (joint / pi[:, None])[rows][:, order] / LENGTH  # (27, 18)
    elif isinstance(config, CoupledMasks):
        several = torch.cartesian_prod(*[torch.arange(len(MASKS))] * config.mask_pairs).view(-1, config.mask_pairs)
        masks = MASKS[several]  # (8 ** K, K, L)
        share = MASK_PROBABILITY[several].prod(1).expand(len(rows), -1)  # (B, 8 ** K)
    else:
        masks = torch.zeros(1, 0, LENGTH, dtype=torch.bool)
        share = torch.ones(len(rows), 1, dtype=torch.float64)
    # All groups under the first choice of masks, then all under the second.
    completions = COMPLETIONS[rows].repeat(len(masks), 1)
    everything = torch.ones_like(completions, dtype=torch.bool)
    keys = torch.arange(len(completions))
    if isinstance(config, CoupledMasks) and config.mask_source == "path":
        views = masking.path_views(keys, UNMASKED_AT.repeat_interleave(len(rows), 0), everything.float(), everything)
    elif isinstance(config, PromptMasks):
        views = masking.prompt_views(keys, everything[:, :0], everything, config.mask_draws, config.prompt_mask_rate)
    else:
        views = masking.mask_views(masks.repeat_interleave(len(rows), 0).transpose(0, 1), everything)
    return Cases(
        completions=completions,
        advantages=(2.0 * solved[rows] - 1).double().repeat(len(masks)),
        probability=(weight[:, None] * share).T.flatten(),
        views=views,
        group_size=size,
    )


def expected_gradient(config: ObjectiveConfig, table: Tensor, old: Tensor, cases: Cases) -> Tensor:  # (64, L, V)
    """The gradient of the expected loss by the table, with cases drawn from the table `old`."""
    table = table.detach().requires_grad_()
    readouts = read_views(table, old, cases.completions, cases.views, config)
    leaf = readouts.detach().requires_grad_()
    scores = Scores(
        theta=leaf,
        old=read_views(old, old, cases.completions, cases.views, config),
        ref=None,
        theta_log_prob=None,
        ref_log_prob=None,
        read=cases.views.read,
        lengths=cases.views.counted.sum(1),
        judged=torch.ones(len(cases.completions), dtype=torch.bool),
        group_size=cases.group_size,
    )
    loss, _ = objective_loss(scores, cases.advantages, config)
    # The loss is a sum over groups, so each group's gradient by its readouts counts with the group's probability.
    (by_readouts,) = torch.autograd.grad(loss, leaf)
    (gradient,) = torch.autograd.grad(readouts, table, by_readouts * cases.probability[:, None])
    return gradient


def first_step(config: ObjectiveConfig, table: Tensor, solved: Tensor) -> Tensor:  # (64, L, V)
    """The direction of steepest descent of an objective where theta = old."""
    return -expected_gradient(config, table, table, enumerate_cases(config, table, solved))


def kept_tokens(table: Tensor, solved: Tensor) -> Tensor:  # (64, L, V)
    """A yardstick: the policy gradient of a rollout's own order, of the likelihood of the token that each step kept.

    The sampler's true likelihood has one factor more: that the kept token was the most confident.
    """
    table = table.detach().requires_grad_()
    joint = sampler(table).detach()  # (27, 6)
    advantage = solved.double() - joint[solved].sum()
    return torch.autograd.grad((joint * advantage[:, None] * any_order(table).log()).sum(), table)[0]


def visited_states(table: Tensor, solved: Tensor) -> Tensor:  # (64, L, V)
    """A yardstick: as `kept_tokens`, but before each step every hidden token counts 1 / (hidden tokens).

    That is the kept token on average, were it chosen blindly. The complements of the states have no part in it.
    """
    table = table.detach().requires_grad_()
    joint = sampler(table).detach()  # (27, 6)
    advantage = solved.double() - joint[solved].sum()
    likelihood = torch.zeros_like(joint)
    for step, states in enumerate(steps()[0].unbind(2)):  # (27, 6) each
        hidden = step <= UNMASKED_AT  # (6, L)
        tokens = COMPLETIONS[:, None, :, None].expand(-1, len(ORDERS), -1, -1)
        log_prob = table.log_softmax(-1)[states].gather(3, tokens)[..., 0]  # (27, 6, L)
        likelihood = likelihood + (log_prob * hidden).sum(2) / hidden.sum(1)
    return torch.autograd.grad((joint * advantage[:, None] * likelihood).sum(), table)[0]


def cosine(first: Tensor, second: Tensor) -> float:
    return float((first * second).sum() / first.norm() / second.norm())


def tilt(table: Tensor, direction: Tensor, solved: Tensor) -> float:
    """The correlation, over the sampler's completions, of the change of log pi(y) with the advantage of y.

    1 means that a small step moves the sampler as the self-teacher pi_old exp(psi A) asks for. It is also the gain in
    expected reward for the same divergence of the sampler from where it was, as a share of the most that is possible.
    """
    pi, slope = jvp(lambda values: sampler(values).sum(1), table, direction)
    change, advantage = slope / pi, solved.double() - pi[solved].sum()  # both have mean 0 under pi
    return float((pi * change * advantage).sum() / ((pi * change**2).sum() * (pi * advantage**2).sum()).sqrt())
