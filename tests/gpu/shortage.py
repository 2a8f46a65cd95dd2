"""Whether an epoch that runs out of memory goes on with smaller micro-batches, to the same end."""

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from tasks.gdsd.config.compute import ComputeConfig
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.distill import gradients
from tests.bench.models import build, round_of, train
from tests.gdsd import epochs
from tests.gdsd.shared_epochs import breaking
from tests.gpu.models import synchronise
from tests.gpu.results import Row
from tests.gpu.scale import Scale

GROUPS, GROUP, TOKENS = 4, 4, 128  # tokens of a prompt, and of a completion
PART = 0.6  # of the memory that the update wants
LARGEST = 1e-3  # difference of the changes of the weights, as a share


class Heard(logging.Handler):
    """Counts what is said of micro-batches that did not fit."""

    def __init__(self) -> None:
        super().__init__()
        self.times = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.times += "do not fit" in record.getMessage()


@contextmanager
def short(bytes_there: float, scale: Scale) -> Iterator[None]:
    """Leaves so much memory to this process; on the CPU, the first micro-batch is told that there is none."""
    if not scale.is_gpu:
        with breaking("forward 0", []):
            yield
        return
    torch.cuda.empty_cache()
    whole = torch.cuda.get_device_properties(scale.device).total_memory
    torch.cuda.set_per_process_memory_fraction(bytes_there / whole)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def trained(start: Denoiser) -> Tensor:  # (P,), on the CPU
    """Returns the change of all weights in an update of which one micro-batch should be all."""
    denoiser = copy.deepcopy(start)
    rewarded = round_of(denoiser.encode("0123456789abcdef"), GROUPS, GROUP, TOKENS, TOKENS)
    compute = ComputeConfig(micro_batch_tokens=2 * GROUPS * GROUP * 2 * TOKENS)
    config = epochs.configured({"mask_pairs": 1}, inner_steps=1, compute=compute)
    train(denoiser, rewarded, config, GROUP)
    pairs = zip(denoiser.parameters(), start.parameters(), strict=True)
    return torch.cat([(after - before).flatten() for after, before in pairs]).detach().cpu()


def measure(scale: Scale) -> Iterator[Row]:
    torch.manual_seed(0)
    start = build(scale.wanting).to(scale.device)
    if scale.is_gpu:
        torch.cuda.reset_peak_memory_stats()
    wanted = trained(start)
    synchronise(scale)
    peak = torch.cuda.max_memory_allocated() if scale.is_gpu else 0
    heard = Heard()
    logger = logging.getLogger(gradients.__name__)
    logger.addHandler(heard)
    try:
        with short(PART * peak, scale):
            found = trained(start)
    finally:
        logger.removeHandler(heard)
    off = float((found - wanted).norm() / wanted.norm())
    yield Row("all the memory", {"GiB": peak / 2**30})
    values = {"GiB": PART * peak / 2**30, "times cut": float(heard.times), "off": f"{off:.1e}"}
    yield Row("less", values, heard.times > 0 and off <= LARGEST)
