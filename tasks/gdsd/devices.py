"""Which device a process computes on."""

import torch


def device() -> torch.device:
    """Returns the CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
