"""What objectives take and give: scores, the sums that they are made of, and metrics."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor


@dataclass(frozen=True)
class Scores:
    """What the denoiser says of hidden tokens of the same completions in the same views, in float32.

    A view is a copy of prompt and completion in which some tokens are hidden; every readout is 0 where the completion's
    token is not read. Coupled masks give C = 2 * K views: 2k hides a mask, 2k + 1 its complement. Masks without
    complements give C = K, and a path as many views as states of it are read. The sequences are whole groups, one after
    another.
    """

    theta: Tensor  # (C, B, L) readouts of the policy in training
    old: Tensor  # (C, B, L) of the policy that generated the completions
    ref: Tensor | None  # (C, B, L) of the base policy; None where the objective does not need it
    theta_log_prob: Tensor | None  # (C, B, L) beside a centred readout; None where the objective does not need it
    ref_log_prob: Tensor | None  # (C, B, L)
    read: Tensor  # (C, B, L) bool: what is read out
    lengths: Tensor  # (B,) int64: tokens of each completion that count
    judged: Tensor  # (B,) bool: False where there is no advantage; such a sequence adds nothing
    group_size: int  # G, with B = P * G
    weight: Tensor | None = None  # (C, B): how many states of a path each stands for; None: views count alike


@dataclass(frozen=True)
class LossMetrics:
    """What an objective reports beside its loss: sums over the judged sequences, so that micro-batches add up."""

    shift_abs: Tensor  # () of |score - old score| per token, mean over pairs or draws
    residual_abs: Tensor | None = None  # () of |score - target| per token, mean over pairs; GDSD only
    clipped: Tensor | None = None  # () of the share whose gradient the clip or trust region stops
    kl_ref: Tensor | None = None  # () of the estimated divergence from the base policy, per token


def pair_scores(
    readouts: Tensor,  # (C, B, L), 0 where not read
    read: Tensor,  # (C, B, L) bool
    lengths: Tensor,  # (B,) int64
    weights: Literal["uniform", "elbo"],
    views: int = 2,
) -> Tensor:  # (K, B), with C = K * `views`
    """Returns the per-token score d = s / L of each completion in each set of views: a pair, or one view.

    `uniform` is the mean readout of a pair, in which every token is read once, or of what was read. (Halving the sum of
    both halves, as the paper writes a pair's score, would make psi mean half as much.) `elbo` weighs a view
    that hides x of L tokens by (L + 1) / x and averages: for x uniform over 0..L, each view is then an unbiased
    estimate of the ELBO when the readout is `log_prob`.
    """
    sums = readouts.unflatten(0, (-1, views)).sum(3)  # (K, views, B)
    sizes = read.unflatten(0, (-1, views)).sum(3)  # (K, views, B)
    if weights == "elbo":
        return (sums * (lengths + 1) / sizes.clamp(min=1)).mean(1) / lengths
    return sums.sum(1) / sizes.sum(1).clamp(min=1)


def path_scores(
    readouts: Tensor,  # (C, B, L), 0 where not read
    lengths: Tensor,  # (B,) int64
    weight: Tensor | None,  # (C, B): how many states of the path each stands for; None: itself
) -> Tensor:  # (1, B)
    """Returns the per-token score of each completion along its path, in whose states every token is read once."""
    sums = readouts.sum(2)  # (C, B)
    return ((sums if weight is None else sums * weight).sum(0) / lengths)[None]


def group_mean(
    values: Tensor,  # (..., B)
    judged: Tensor,  # (B,) bool
    group_size: int,
) -> Tensor:  # (..., B): the mean over the judged sequences of each group, repeated over the group
    groups = values.where(judged, 0.0).unflatten(-1, (-1, group_size))  # (..., P, G)
    count = judged.unflatten(0, (-1, group_size)).sum(1, keepdim=True).clamp(min=1)  # (P, 1)
    return (groups.sum(-1, keepdim=True) / count).expand_as(groups).flatten(-2)


def judged_sum(
    values: Tensor,  # (N, B)
    judged: Tensor,  # (B,) bool
) -> Tensor:  # ()
    """Sums over the judged sequences the mean over N pairs or draws."""
    return values.where(judged, 0.0).mean(0).sum()
