"""GDSD: regress the denoiser's scores onto an advantage-guided copy of itself (arXiv 2605.29398).

The target of a completion with advantage A, on the per-token scale, is

    t = (1 - beta) * d_old + beta * d_ref + psi * A                       form `optimum`
    t = d_old + psi * A,   beside a KL penalty beta * k2 towards ref      forms `penalty` and `token_penalty`

and the loss is the squared residual (d_theta - t)^2, whose gradient vanishes at the target. With the baseline `group`
the mean residual of each group is subtracted first. The loss is then the variance of log-ratios, in which every
normaliser cancels, the teacher's and the softmax's alike. With `zero` the centred advantages are taken to absorb the
normalisers.

The trust region is in `_stopped`. docs/recipes.md says how the authors' code differs, commit by commit.
"""

import torch
from torch import Tensor

from tasks.gdsd.config.objective import GdsdConfig
from tasks.gdsd.objectives.base import LossMetrics, Scores, group_mean, judged_sum, pair_scores, path_scores


def gdsd_loss(
    scores: Scores,
    advantages: Tensor,  # (B,) float32
    config: GdsdConfig,
) -> tuple[Tensor, LossMetrics]:  # () sum over sequences
    """Returns the sum over sequences of squared residuals, averaged over mask pairs, and its metrics.

    Raises:
        ValueError: `reference_weight` is positive but there are no reference scores.
    """
    judged = scores.judged
    theta, old = _score(scores.theta, scores, config), _score(scores.old, scores, config)  # (K, B) each
    teacher, penalty = old, None
    if config.reference_weight > 0:
        ref = scores.ref_log_prob if config.needs_log_prob else scores.ref
        if ref is None:
            raise ValueError(f"reference_weight is {config.reference_weight}, but no reference scores were computed")
        if config.form == "optimum":
            teacher = (1 - config.reference_weight) * old + config.reference_weight * _score(ref, scores, config)
        else:
            penalty = _k2(ref, scores, config)
    target = teacher + config.guidance * advantages  # (K, B)
    stopped = torch.zeros_like(judged)
    if config.trust_region is not None:
        stopped = _stopped(theta, old, target, config.trust_region, scores, config)
        theta = torch.where(stopped, theta.detach(), theta)
    residual = _residual(theta, target, scores, config)
    loss = judged_sum(residual.square(), judged)
    if penalty is not None:
        loss = loss + config.reference_weight * judged_sum(penalty, judged)
    return loss, LossMetrics(
        shift_abs=judged_sum((theta.detach() - old).abs(), judged),
        residual_abs=judged_sum(residual.detach().abs(), judged),
        clipped=None if config.trust_region is None else judged_sum(stopped.float(), judged),
        kl_ref=None if penalty is None else judged_sum(penalty.detach(), judged),
    )


def _score(readouts: Tensor, scores: Scores, config: GdsdConfig) -> Tensor:  # (C, B, L) -> (K, B)
    if config.mask_source == "path":
        return path_scores(readouts, scores.lengths, scores.weight)
    return pair_scores(readouts, scores.read, scores.lengths, config.weights, 1 + config.complement)


def _residual(theta: Tensor, target: Tensor, scores: Scores, config: GdsdConfig) -> Tensor:  # (K, B)
    residual = theta - target
    if config.baseline == "group":
        residual = residual - group_mean(residual, scores.judged, scores.group_size)
    # Before it is squared: an advantage that is not a number would otherwise spoil the gradient of its neighbours.
    return residual.where(scores.judged, 0.0)


def _stopped(
    theta: Tensor, old: Tensor, target: Tensor, allowed: float, scores: Scores, config: GdsdConfig
) -> Tensor:  # (K, B) bool
    """Which scores have moved further than the trust region allows and would be pulled further yet.

    One-sided: a score that drifted away from its target, or past it, keeps the gradient that brings it back.
    """
    shift = theta.detach() - old
    pull = -_residual(theta.detach(), target, scores, config)
    return (shift.abs() > allowed) & (pull * shift > 0)


def _k2(
    ref: Tensor,  # (C, B, L) log-probabilities
    scores: Scores,
    config: GdsdConfig,
) -> Tensor:  # (K, B)
    """The estimate 1/2 (log-ratio to the base policy)^2 of the divergence, per token.

    The log-ratio is the completion's, or each token's: a sum over tokens hides those that moved apart. Always on
    log-probabilities: with a centred readout, whose scores are not normalised, it would grow with L^2.
    """
    theta = scores.theta if scores.theta_log_prob is None else scores.theta_log_prob
    if config.form == "token_penalty":
        return _score((theta - ref).square(), scores, config) / 2
    ratio = _score(theta - ref, scores, config) * scores.lengths  # (K, B), of the whole completion
    return ratio.square() / (2 * scores.lengths)
