"""Which device a process computes on."""

import os

import torch


def device() -> torch.device:
    """Returns the CUDA device if there is one, else the CPU; among several processes of a machine, each its own."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # Partial sums of a product stay in float32: an adapter's sum is rounded once, see `denoiser.exact_sum`.
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    place = os.environ.get("LOCAL_RANK")  # set by whatever launches several processes
    return torch.device("cuda") if place is None else torch.device("cuda", int(place))


def name(device: torch.device) -> str:
    """Returns what a device is called in a record."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
