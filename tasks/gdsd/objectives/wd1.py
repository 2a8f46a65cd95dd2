"""wd1: weighted log-likelihood without a ratio (arXiv 2507.08838).

    loss of a group = -sum_i (w+_i - w-_i) log p(y_i) / L_i,   w+- = softmax over the group of +-psi * A

with log p the one-step estimate of d1. The authors do not divide by the length; here all objectives do. Their loss is
one sum per group, so each sequence's is multiplied by the number of judged sequences of its group: the mean over
sequences, which training takes, is then the mean over groups of theirs.

The paper derives the weights from a target that mixes old and base policy with weights lambda and beta, for which
psi = 1 / (lambda + beta). This is its main form, lambda = 1 and beta = 0, which needs no reference (xiaohangt/wd1 at
0898985, wd1/trainers/rev_grpo_trainer.py). With beta > 0 the authors sample from that mixture; it is left out, because
all objectives are given the same rollouts. docs/objectives.md says how their advantages differ.
"""

import math

from torch import Tensor

from tasks.gdsd.config.objective import Wd1Config
from tasks.gdsd.objectives.base import LossMetrics, Scores, judged_sum


def wd1_loss(
    scores: Scores,
    advantages: Tensor,  # (B,) float32
    config: Wd1Config,
) -> tuple[Tensor, LossMetrics]:  # () sum over sequences
    """Returns the loss, summed over the judged sequences, averaged over draws, and its metrics."""
    theta, old = (readouts.sum(2) / scores.lengths for readouts in (scores.theta, scores.old))  # (C, B), per token
    weights = group_weights(advantages, scores.judged, scores.group_size, config.guidance)
    return -judged_sum(weights * theta, scores.judged), LossMetrics(
        shift_abs=judged_sum((theta.detach() - old).abs(), scores.judged)
    )


def group_weights(
    advantages: Tensor,  # (B,)
    judged: Tensor,  # (B,) bool
    group_size: int,
    guidance: float,
) -> Tensor:  # (B,)
    """Returns n * (w+ - w-), the softmaxes being over the n judged sequences of each group; 0 elsewhere."""
    known = judged.unflatten(0, (-1, group_size))  # (P, G)
    logits = guidance * advantages.unflatten(0, (-1, group_size))
    positive, negative = (signed.masked_fill(~known, -math.inf).softmax(1) for signed in (logits, -logits))
    weights = known.sum(1, keepdim=True) * (positive - negative)
    return weights.where(known, 0.0).flatten()  # a group without a verdict has no softmax
