"""The clipped ratio of PPO, which ESPO applies to sequences and diffu-GRPO to tokens."""

import math

import torch
from torch import Tensor


def clipped_surrogate(
    log_ratio: Tensor,  # (...) log of the probability under the policy in training over that under the old one
    advantages: Tensor,  # broadcasts to (...), finite
    clip: float,
) -> tuple[Tensor, Tensor]:  # (...), (...) bool
    """Returns min(ratio * A, clamp(ratio, 1 - clip, 1 + clip) * A), and where the clip stops the gradient.

    It stops a ratio only beyond the bound on the side that its advantage pulls to: a ratio on the other side keeps the
    gradient that brings it back. Source: arXiv 1707.06347, equation 7.
    """
    upper, lower = math.log1p(clip), math.log1p(-clip)
    stopped = torch.where(advantages > 0, log_ratio > upper, (log_ratio < lower) & (advantages < 0))
    # Clamped before it is exponentiated: a ratio that overflows would make its gradient NaN even where it is stopped.
    return torch.where(stopped, log_ratio.clamp(lower, upper), log_ratio).exp() * advantages, stopped
