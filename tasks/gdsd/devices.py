"""Which device a process computes on."""

import os

import torch


def device() -> torch.device:
    """Returns the CUDA device if there is one, else the CPU; among several processes of a machine, each its own."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    place = os.environ.get("LOCAL_RANK")  # set by whatever launches several processes
    return torch.device("cuda") if place is None else torch.device("cuda", int(place))
