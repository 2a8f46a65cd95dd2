"""SPG: raise a lower bound of good answers' likelihood, lower an upper bound of bad ones' (arXiv 2510.09541).

    loss = -A * ELBO / L                                            for A >= 0
    loss = -A * (omega * EUBO + (1 - omega) * ELBO) / L             for A < 0   ("SPG with mixture")
    EUBO = sum_i 1/b log mean_k [ 1{i hidden in view k} * w_k * p_ik^b ]

with p_ik the probability of token i in view k and 1 / w_k the share of tokens that view k hides. The paper drops from
the EUBO a constant without gradient. It has no ratio, no clip and no KL penalty.

Differences from the authors' code (facebookresearch/SPG at a1c7120, spg/spg_trainer.py):

- The number x of hidden tokens is uniform over 0..L, and theirs over 1..L. So w = (L + 1) / x, and not L / x, makes the
  means over views unbiased.
- Masks are uniform over the completion and leave the prompt alone. Theirs hide some of one block, all that follows it,
  and a few tokens of what precedes it, prompt included.
- Each completion is divided by its own length. They divide a batch by the number of all its tokens.

The last two are as for every other objective here. docs/objectives.md has what is shared by several: advantages, and
tokens after the end.
"""

import math

import torch
from torch import Tensor

from tasks.gdsd.config.objective import SpgConfig
from tasks.gdsd.objectives.base import LossMetrics, Scores, judged_sum, pair_scores


def spg_loss(
    scores: Scores,
    advantages: Tensor,  # (B,) float32
    config: SpgConfig,
) -> tuple[Tensor, LossMetrics]:  # () sum over sequences
    """Returns the loss, summed over the judged sequences, and its metrics."""
    judged, lengths = scores.judged, scores.lengths
    lower = pair_scores(scores.theta, scores.read, lengths, "elbo")  # (K, B), per token
    upper = upper_bound(scores.theta, scores.read, lengths, config.eubo_power)  # (B,), per token
    advantage = advantages.where(judged, 0.0)
    bound = torch.where(advantage < 0, config.mix * upper + (1 - config.mix) * lower, lower)  # (K, B)
    old = pair_scores(scores.old, scores.read, lengths, "elbo")
    return -judged_sum(advantage * bound, judged), LossMetrics(
        shift_abs=judged_sum((lower.detach() - old).abs(), judged)
    )


def upper_bound(
    log_prob: Tensor,  # (C, B, L), 0 where not hidden
    hidden: Tensor,  # (C, B, L) bool
    lengths: Tensor,  # (B,) int64
    power: float,
) -> Tensor:  # (B,)
    """Returns the EUBO per token, estimated from all C views at once.

    The logarithm is taken of a mean over views, so few of them estimate the bound too low. A token that is hidden in
    one view only gets the gradient of its log-probability, whatever the power.
    """
    sizes = hidden.sum(2, keepdim=True)  # (C, B, 1)
    weights = ((lengths[:, None] + 1) / sizes.clamp(min=1)).log()  # (C, B, 1)
    terms = (power * log_prob + weights).masked_fill(~hidden, -math.inf)
    counted = hidden.any(0)  # (B, L)
    means = terms.logsumexp(0) - math.log(len(terms))  # (B, L); -inf where the token does not count
    return means.where(counted, 0.0).sum(1) / (power * lengths)
