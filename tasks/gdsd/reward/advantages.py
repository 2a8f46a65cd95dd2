"""From rewards to advantages: how much better a completion is than the others of its prompt."""

import numpy as np
from numpy.typing import NDArray


def leave_one_out(
    rewards: NDArray[np.float32],  # (P, G); NaN where there is no verdict
    scale: bool,
) -> NDArray[np.float32]:  # (P, G); NaN where the reward is NaN or nothing is left to compare with
    """Returns A_i = r_i - mean of the other rewards of the group, optionally divided by the group's standard deviation.

    A row without a verdict is left out of every baseline. The deviation is the unbiased one over the judged rows; a
    group without spread keeps advantage 0 whether scaled or not.
    """
    judged = ~np.isnan(rewards)
    count = judged.sum(1, keepdims=True)  # (P, 1)
    known = np.where(judged, rewards, 0.0).astype(np.float64)
    others = (known.sum(1, keepdims=True) - known) / np.maximum(count - 1, 1)
    advantage = known - others  # (P, G)
    # Without spread the differences are rounding errors, or 0 / 0 when scaled.
    highest = np.where(judged, rewards, -np.inf).max(1, keepdims=True)
    lowest = np.where(judged, rewards, np.inf).min(1, keepdims=True)
    spread = highest > lowest  # (P, 1)
    if scale:
        mean = known.sum(1, keepdims=True) / np.maximum(count, 1)
        squares = np.where(judged, (known - mean) ** 2, 0.0).sum(1, keepdims=True)
        advantage /= np.where(spread, np.sqrt(squares / np.maximum(count - 1, 1)), 1.0)
    advantage = np.where(spread, advantage, 0.0)
    return np.where(judged & (count > 1), advantage, np.nan).astype(np.float32)
