"""What objectives take and give."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Scores:
    """Per-token scores d = s / L of the same completions under the same mask pairs, in float32.

    The sequences are whole groups, one after another.
    """

    theta: Tensor  # (K, B) of the policy in training
    old: Tensor  # (K, B) of the policy that generated the completions
    ref: Tensor | None  # (K, B) of the base policy; None where its weight is zero
    judged: Tensor  # (B,) bool: False where there is no advantage; such a sequence adds nothing
    group_size: int  # G, with B = P * G


@dataclass(frozen=True)
class LossMetrics:
    """What an objective reports beside its loss; sums over pairs and sequences, so that micro-batches add up."""

    residual_abs: Tensor  # () sum of |d_theta - target|
    shift_abs: Tensor  # () sum of |d_theta - d_old|
