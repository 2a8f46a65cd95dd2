"""Seconds and memory of an update at published shapes, against the plan and the dense step."""

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from tasks.gdsd.config.compute import ComputeConfig
from tasks.gdsd.config.objective import GdsdConfig
from tasks.gdsd.config.policy import AdapterConfig
from tasks.gdsd.config.train import DistillConfig
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.planning import memory, shapes, work
from tests.bench.models import round_of, train
from tests.gpu.models import (
    as_planned,
    dense_logits,
    fitting,
    freed,
    of_plans_peak,
    product,
    random_denoiser,
    timed,
)
from tests.gpu.results import OF_PEAK, Row
from tests.gpu.scale import Scale, Values

OBJECTIVE = GdsdConfig(form="optimum", mask_source="random", weights="elbo", reference_weight=0, trust_region=None)


def adapter_of(scale: Scale, base_bits: int | None = None) -> AdapterConfig:
    return AdapterConfig.model_validate({"rank": scale.rank, "alpha": float(scale.rank), "base_bits": base_bits})


def config_of(scale: Scale, **compute: object) -> DistillConfig:
    """Returns an epoch of one update, whose completions are one micro-batch."""
    tokens = 2 * scale.group * (scale.prompt + scale.trained_length)
    computing = ComputeConfig.model_validate({"micro_batch_tokens": tokens, **compute})
    return DistillConfig(objective=OBJECTIVE, inner_steps=1, ema_decay=0, compute=computing)


def dense_update(denoiser: Denoiser, optimizer: torch.optim.Optimizer, ids: Tensor) -> None:  # (B, T)
    """A step on the log-probabilities of all tokens, hidden or not."""
    optimizer.zero_grad()
    scores = dense_logits(denoiser, ids).log_softmax(-1).gather(-1, ids[..., None])
    scores.mean(1).square().mean().backward()
    optimizer.step()


def row(
    name: str,
    denoiser: Denoiser,
    values: Values,
    config: DistillConfig,
    adapter: AdapterConfig | None,
    scale: Scale,
    peak: float,
    with_dense: bool = False,
) -> Row:
    """Measures one kind of update.

    Args:
        peak: operations per second of a large product.
    """
    shape = shapes.shape_of_config(values)[1]
    group, prompt = scale.group, scale.prompt
    sampler = scale.sampler.model_copy(update={"length": scale.trained_length})
    rewarded = round_of(denoiser.encode("abcdefgh"), 1, group, prompt, scale.trained_length)
    taken = timed(lambda: train(denoiser, rewarded, config, group), scale)
    added = 0 if adapter is None else shape.adapter(adapter)
    done = work.epoch(shape, config, group, prompt, sampler, added)
    planned = memory.of_epoch(shape, config, group, group, prompt, sampler, scale.dtype.itemsize, adapter)
    found = {
        "seconds": taken.seconds,
        "of the product": done.total / taken.seconds / peak,
        OF_PEAK: of_plans_peak(done, taken.seconds, scale),
        "GiB": taken.gib,
        "planned": planned.total / memory.GIB,
    }
    if with_dense:
        ids = torch.full((2 * group, prompt + scale.trained_length), denoiser.mask_id, device=scale.device)
        optimizer = torch.optim.AdamW([parameter for _, parameter in denoiser.trainable()], 1e-6)
        found["times dense"] = timed(lambda: dense_update(denoiser, optimizer, ids), scale).seconds / taken.seconds
    return Row(name, found, as_planned(taken, planned.total, scale))


def measure(scale: Scale) -> Iterator[Row]:
    peak = product(scale, scale.dtype)
    adapter = adapter_of(scale)
    for model, values in scale.models.items():
        with freed(scale):
            denoiser = random_denoiser(values, scale)
            denoiser.attach_adapter(adapter, seed=0)
            for name, compute in (("", {}), (", recomputed", {"gradient_checkpointing": True})):
                config = config_of(scale, **compute)
                title = f"{model}, adapter{name}"
                measured = functools.partial(row, title, denoiser, values, config, adapter, scale, peak, not name)
                yield fitting(title, measured)
            del denoiser, measured
    with freed(scale):  # the last and smallest, whose weights can all be trained
        denoiser = random_denoiser(values, scale, torch.float32)
        config = config_of(scale, precision="bfloat16")
        yield row(f"{model}, all weights, bfloat16", denoiser, values, config, None, scale, peak)
        del denoiser
