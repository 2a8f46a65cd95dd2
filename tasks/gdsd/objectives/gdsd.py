"""GDSD: regress the denoiser's scores onto an advantage-guided copy of itself (arXiv 2605.29398).

The target of a completion with advantage A, on the per-token scale, is

    t = (1 - beta) * d_old + beta * d_ref + psi * A

and the loss is the squared residual (d_theta - t)^2, whose gradient vanishes at the target. With the baseline `group`
the mean residual of each group is subtracted first: the loss becomes the variance of log-ratios, in which every
normaliser cancels, the teacher's and the softmax's alike. With `zero` the normalisers are taken to be absorbed by the
centred advantages.
"""

from torch import Tensor

from tasks.gdsd.config import GdsdConfig
from tasks.gdsd.objectives.base import LossMetrics, Scores


def gdsd_loss(
    scores: Scores,
    advantages: Tensor,  # (B,) float32
    config: GdsdConfig,
) -> tuple[Tensor, LossMetrics]:  # () sum over pairs and sequences
    """Returns the sum of squared residuals over mask pairs and sequences, and its metrics.

    Raises:
        ValueError: `reference_weight` is positive but there are no reference scores.
    """
    teacher = scores.old  # (K, B)
    if config.reference_weight > 0:
        if scores.ref is None:
            raise ValueError(f"reference_weight is {config.reference_weight}, but no reference scores were computed")
        teacher = (1 - config.reference_weight) * scores.old + config.reference_weight * scores.ref
    residual = scores.theta - (teacher + config.guidance * advantages)  # (K, B)
    if config.baseline == "group":
        residual = residual - _group_mean(residual, scores.judged, scores.group_size)
    residual = residual.where(scores.judged, 0.0)
    shift = (scores.theta.detach() - scores.old).where(scores.judged, 0.0)
    metrics = LossMetrics(residual_abs=residual.detach().abs().sum(), shift_abs=shift.abs().sum())
    return residual.square().sum(), metrics


def _group_mean(
    values: Tensor,  # (K, B)
    judged: Tensor,  # (B,) bool
    group_size: int,
) -> Tensor:  # (K, B): the mean over the judged sequences of each group, repeated over the group
    groups = values.where(judged, 0.0).unflatten(1, (-1, group_size))  # (K, P, G)
    count = judged.unflatten(0, (-1, group_size)).sum(1, keepdim=True).clamp(min=1)  # (P, 1)
    return (groups.sum(2, keepdim=True) / count).expand_as(groups).flatten(1)
