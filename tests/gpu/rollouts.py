"""Tokens per second of each engine at published shapes, with shares of the peak and memory against the plan."""

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from tasks.gdsd.config.sampler import EngineConfig
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.planning import memory, shapes, work
from tests.gpu.models import (
    as_planned,
    dense_logits,
    fitting,
    freed,
    of_plans_peak,
    product,
    random_denoiser,
    sampling,
    timed,
)
from tests.gpu.results import OF_PEAK, Row
from tests.gpu.scale import Scale, Values
from tests.gpu.tokens import ENGINES


@torch.no_grad()
def dense_step(denoiser: Denoiser, ids: Tensor) -> Tensor:  # (B, T) -> (B, T, 1)
    """Draws every token by Gumbel noise on all logits, with its confidence, as samplers commonly do."""
    logits = dense_logits(denoiser, ids)
    noise = -torch.log(-torch.log(torch.rand_like(logits).clamp(1e-20, 1 - 1e-7)))
    return logits.softmax(-1).gather(-1, (logits + noise).argmax(-1, keepdim=True))


def row(
    name: str, denoiser: Denoiser, values: Values, engine: EngineConfig, batch: int, scale: Scale, peak: float
) -> Row:
    """Measures one engine at one size.

    Args:
        peak: operations per second of a large product.
    """
    shape, settings = shapes.shape_of_config(values)[1], denoiser.family.sampler.fill(scale.sampler)
    taken = timed(sampling(denoiser, engine, scale.sampler, batch, scale.prompt), scale)
    done = work.completion(shape, scale.prompt, settings, None, engine) * batch
    b = scale.dtype.itemsize
    planned = memory.of_sampling(shape, batch, scale.prompt, settings, b, None, engine, scale.is_gpu)
    found = {
        "tokens/s": batch * settings.length / taken.seconds,
        "of the product": done.total / taken.seconds / peak,
        OF_PEAK: of_plans_peak(done, taken.seconds, scale),
        "GiB": taken.gib,
        "planned": planned.total / memory.GIB,
    }
    if engine.name == "exact":
        canvas = torch.full((batch, scale.prompt + settings.length), denoiser.mask_id, device=scale.device)
        dense = timed(lambda: dense_step(denoiser, canvas), scale).seconds
        found["times dense"] = settings.blocks * settings.calls_per_block * dense / taken.seconds
    return Row(name, found, as_planned(taken, planned.total, scale))


def measure(scale: Scale) -> Iterator[Row]:
    peak = product(scale, scale.dtype)
    for model, values in scale.models.items():
        with freed(scale):
            denoiser = random_denoiser(values, scale)
            denoiser.freeze_for_sampling()
            for batch in scale.batches:
                for name, engine in ENGINES.items():
                    title = f"{model}, {name}, {batch} at once"
                    measured = functools.partial(row, title, denoiser, values, engine, batch, scale, peak)
                    yield fitting(title, measured)
            del denoiser, measured
