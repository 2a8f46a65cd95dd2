"""Prompts of different lengths in one tensor."""

from collections.abc import Sequence

import torch
from torch import Tensor


def left_pad(
    prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> tuple[Tensor, Tensor]:  # (B, S) int64, (B, S) bool
    """Stacks prompts so that they end together, and marks what is prompt."""
    width = max(map(len, prompts))
    rows = [[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    ids = torch.tensor(rows, dtype=torch.int64, device=device)  # named, for where all prompts are empty
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    return ids, torch.arange(width, device=device) >= width - lengths[:, None]
