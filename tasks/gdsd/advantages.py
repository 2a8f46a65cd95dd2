"""From rewards to advantages: how much better a completion is than the others of its prompt."""

import torch
from torch import Tensor


def leave_one_out(
    rewards: Tensor,  # (P, G) float32; NaN where the reward cannot judge
    scale: bool,
) -> Tensor:  # (P, G) float32; NaN where the reward is NaN or nothing is left to compare with
    """Returns A_i = r_i - mean of the other rewards of the group, optionally divided by the group's standard deviation.

    A row without a verdict is left out of every baseline. The deviation is the unbiased one over the judged rows; a
    group without spread keeps advantage 0 whether scaled or not.
    """
    judged = ~rewards.isnan()
    count = judged.sum(1, keepdim=True)  # (P, 1)
    known = rewards.nan_to_num(0.0)
    total = known.sum(1, keepdim=True)
    others = (total - known) / (count - 1).clamp(min=1)
    advantage = rewards - others
    if scale:
        mean = total / count.clamp(min=1)
        variance = torch.where(judged, (known - mean) ** 2, 0.0).sum(1, keepdim=True) / (count - 1).clamp(min=1)
        deviation = variance.sqrt()
        advantage = torch.where(deviation > 1e-6, advantage / deviation.clamp(min=1e-6), torch.zeros_like(advantage))
        advantage = torch.where(judged, advantage, torch.nan)
    return torch.where(count > 1, advantage, torch.nan)
