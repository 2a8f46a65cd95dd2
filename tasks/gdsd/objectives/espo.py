"""ESPO: a clipped ratio of ELBOs per sequence, with a KL penalty (arXiv 2512.03759).

A completion is one action. With E the ELBO, averaged over the K pairs of masks, and L the number of its tokens,

    loss = -min(rho * A, clamp(rho, 1 - epsilon, 1 + epsilon) * A) + beta * k2 / L
    rho = exp((E_theta - E_old) / L),   k2 = 1/2 (E_theta - E_ref)^2

The authors divide ratio and penalty by L too (ML-GSAI/ESPO at b5f2dac, espo/espo_trainer.py), so nothing is rescaled
here. They count all tokens of a completion, as `after_end = "counted"` does. The reference is the base policy
throughout. Their settings seem to move it (`sync_ref_model`), but that has no effect on runs that train an adapter.
"""

from torch import Tensor

from tasks.gdsd.config.objective import EspoConfig
from tasks.gdsd.objectives.base import LossMetrics, Scores, judged_sum, pair_scores
from tasks.gdsd.objectives.clip import clipped_surrogate


def espo_loss(
    scores: Scores,
    advantages: Tensor,  # (B,) float32
    config: EspoConfig,
) -> tuple[Tensor, LossMetrics]:  # () sum over sequences
    """Returns the loss, summed over the judged sequences, and its metrics.

    Raises:
        ValueError: `kl_weight` is positive but there are no reference scores.
    """
    judged, lengths = scores.judged, scores.lengths
    shift = pair_scores(scores.theta - scores.old, scores.read, lengths, "elbo")  # (K, B), per token
    # Unjudged rows are emptied before anything is exponentiated, so that their gradient is 0 and not NaN.
    log_ratio = shift.mean(0, keepdim=True).where(judged, 0.0)  # (1, B)
    surrogate, stopped = clipped_surrogate(log_ratio, advantages.where(judged, 0.0), config.clip)
    loss, kl_ref = -judged_sum(surrogate, judged), None
    if config.kl_weight > 0:
        if scores.ref is None:
            raise ValueError(f"kl_weight is {config.kl_weight}, but no reference scores were computed")
        drift = pair_scores(scores.theta - scores.ref, scores.read, lengths, "elbo").mean(0, keepdim=True)  # (1, B)
        penalty = judged_sum(drift.square() * lengths / 2, judged)  # (L * drift)^2 / 2, per token
        loss, kl_ref = loss + config.kl_weight * penalty, penalty.detach()
    return loss, LossMetrics(
        shift_abs=judged_sum(shift.detach().abs(), judged),
        clipped=judged_sum(stopped.float(), judged),
        kl_ref=kl_ref,
    )
