"""diffu-GRPO: clipped token ratios of one-step likelihoods, with a KL penalty (d1, arXiv 2504.12216).

With p_i the probability of token i when the whole completion is hidden, and L the number of its tokens,

    loss = 1/L sum_i [ -min(rho_i * A, clamp(rho_i, 1 - epsilon, 1 + epsilon) * A) + beta * k3_i ]
    rho_i = p_i / p_old_i,   k3_i = p_ref_i / p_i - log(p_ref_i / p_i) - 1

as in the paper. The released code (dllm-reasoning/d1 at 837888f, diffu-grpo/diffu_grpo_trainer.py) divides a batch by
the number of all its tokens instead, so that long completions weigh more. docs/objectives.md says how its advantages
differ. Several draws of hidden prompt tokens have ratios of their own, and their losses are averaged.
"""

from torch import Tensor

from tasks.gdsd.config.objective import DiffuGrpoConfig
from tasks.gdsd.objectives.base import LossMetrics, Scores, judged_sum
from tasks.gdsd.objectives.clip import clipped_surrogate


def diffu_grpo_loss(
    scores: Scores,
    advantages: Tensor,  # (B,) float32
    config: DiffuGrpoConfig,
) -> tuple[Tensor, LossMetrics]:  # () sum over sequences
    """Returns the loss, summed over the judged sequences, averaged over draws, and its metrics.

    Raises:
        ValueError: `kl_weight` is positive but there are no reference scores.
    """
    judged, lengths = scores.judged, scores.lengths
    # Unjudged rows are emptied before anything is exponentiated, so that their gradient is 0 and not NaN.
    log_ratio = (scores.theta - scores.old).where(judged[:, None], 0.0)  # (C, B, L)
    advantage = advantages.where(judged, 0.0)[:, None]  # (B, 1)
    surrogate, stopped = clipped_surrogate(log_ratio, advantage, config.clip)  # (C, B, L) each
    # Tokens that do not count have ratio 1 and would still add their advantage.
    loss, kl_ref = -judged_sum(surrogate.where(scores.read, 0.0).sum(2) / lengths, judged), None
    if config.kl_weight > 0:
        if scores.ref is None:
            raise ValueError(f"kl_weight is {config.kl_weight}, but no reference scores were computed")
        back = (scores.ref - scores.theta).where(judged[:, None], 0.0)  # (C, B, L)
        k3 = back.exp() - back - 1
        penalty = judged_sum(k3.sum(2) / lengths, judged)
        loss, kl_ref = loss + config.kl_weight * penalty, penalty.detach()
    return loss, LossMetrics(
        shift_abs=judged_sum(log_ratio.detach().sum(2).abs() / lengths, judged),
        clipped=judged_sum(stopped.sum(2) / lengths, judged),
        kl_ref=kl_ref,
    )
