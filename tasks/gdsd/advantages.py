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
    known = rewards.nan_to_num(0.0).double()
    others = (known.sum(1, keepdim=True) - known) / (count - 1).clamp(min=1)
    advantage = known - others  # (P, G)
    if scale:
        mean = known.sum(1, keepdim=True) / count.clamp(min=1)
        squares = torch.where(judged, (known - mean) ** 2, 0.0).sum(1, keepdim=True)
        advantage = advantage / (squares / (count - 1).clamp(min=1)).sqrt()
    # Without spread the differences are rounding errors, or 0 / 0 when scaled.
    highest = rewards.nan_to_num(-torch.inf).amax(1, keepdim=True)
    lowest = rewards.nan_to_num(torch.inf).amin(1, keepdim=True)
    advantage = torch.where(highest > lowest, advantage, 0.0)
    return torch.where(judged & (count > 1), advantage, torch.nan).float()
