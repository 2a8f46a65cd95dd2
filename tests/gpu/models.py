"""Models of published shapes with random weights, and how long something takes on a device."""

import json
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from tasks.gdsd.config.sampler import EngineConfig, SamplerConfig
from tasks.gdsd.denoiser import families, networks, quantization
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.denoiser.load import load_tokenizer
from tasks.gdsd.planning.work import DEVICES, Device, Work
from tasks.gdsd.rollout import engines
from tasks.gdsd.rollout.engines.base import Request
from tests.bench.harness import resident_mib
from tests.gdsd.official import WRITERS
from tests.gpu.results import Row
from tests.gpu.scale import Scale, Values

ENOUGH = 1.0  # seconds after which a measurement is not repeated


@dataclass(frozen=True)
class Taken:
    """What a piece of work took."""

    seconds: float  # median
    gib: float  # peak of memory; on the CPU of the whole process, ever


def random_denoiser(
    values: Values, scale: Scale, dtype: torch.dtype | None = None, in_4_bits: bool = False
) -> Denoiser:
    """A denoiser of a published shape, filled on its device; tokenizer and special tokens are a small model's."""
    family = families.of_config(values)
    network = networks.build(family, values)
    source = torch.Generator(scale.device).manual_seed(0)
    for name, parameter in list(network.named_parameters()):
        module, _, kind = name.rpartition(".")
        place = network.get_submodule(module)
        filled = torch.ones(parameter.shape, device=scale.device, dtype=dtype or scale.dtype)
        if parameter.dim() > 1:
            filled.normal_(0.0, 0.02, generator=source)
        if in_4_bits and quantization.is_quantised(name, network):
            assert isinstance(place, torch.nn.Linear)
            network.set_submodule(module, quantization.quantise(place, filled))
        else:
            place.register_parameter(kind, torch.nn.Parameter(filled))
    networks.finish(network, family, scale.device)
    files = {"config.json": json.dumps(values).encode()}
    with tempfile.TemporaryDirectory() as folder:
        WRITERS[family.name](Path(folder))
        tokenizer = load_tokenizer(Path(folder))
    return Denoiser(network, tokenizer, family, files, bits=4 if in_4_bits else None).eval()


def few_layers(values: Values, layers: int) -> Values:
    """Returns the shape with fewer blocks."""
    name = "n_layers" if "n_layers" in values else "num_hidden_layers"
    kinds = {"layer_types": ["full_attention"] * layers} if "layer_types" in values else {}
    return values | {name: layers} | kinds


def synchronise(scale: Scale) -> None:
    """Waits for the device."""
    if scale.is_gpu:
        torch.cuda.synchronize()


def timed(work: Callable[[], object], scale: Scale) -> Taken:
    """Does a piece of work once as a warm-up, then a few times."""
    work()
    synchronise(scale)
    if scale.is_gpu:
        torch.cuda.reset_peak_memory_stats()
    taken: list[float] = []
    while len(taken) < scale.repeats and sum(taken) < ENOUGH:
        began = time.perf_counter()
        work()
        synchronise(scale)
        taken.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated() / 2**30 if scale.is_gpu else resident_mib("VmHWM") / 1024
    return Taken(statistics.median(taken), peak)


def product(scale: Scale, dtype: torch.dtype) -> float:
    """Returns the operations per second of a product of two large square matrices of random numbers."""
    left, right = (torch.randn(scale.product, scale.product, device=scale.device).to(dtype) for _ in range(2))
    return 2 * scale.product**3 / timed(lambda: left @ right, scale).seconds


def data_sheet(scale: Scale) -> Device:
    """Returns what the plan knows of this card; of one that it does not know, what it reaches."""
    if scale.is_gpu:
        words = set(re.split(r"[\s-]+", torch.cuda.get_device_name().lower().replace("rtx ", "rtx")))
        for name, device in DEVICES.items():
            if name.partition("-")[0] in words:
                return device
    return Device("this one", 0.0, product(scale, scale.dtype), product(scale, torch.float32))


def of_plans_peak(work: Work, seconds: float, scale: Scale) -> float:
    """Returns the share of the peak with which the plan would have said these seconds."""
    return work.seconds(replace(data_sheet(scale), reached=1.0), scale.is_gpu) / seconds


def sampling(
    denoiser: Denoiser, config: EngineConfig, settings: SamplerConfig, batch: int, prompt: int
) -> Callable[[], object]:
    """Returns a function that completes a batch of prompts of so many tokens."""
    letter, engine = denoiser.encode("a")[-1], engines.make(config, denoiser)
    requests = [Request([letter] * prompt, key) for key in range(batch)]
    return lambda: list(engine.generate(requests, settings, batch))


def dense_logits(denoiser: Denoiser, ids: Tensor) -> Tensor:  # (B, T) -> (B, T, V)
    """Returns the logits of every token, as published code commonly computes them."""
    return functional.linear(denoiser(ids), denoiser.network.lm_head.weight).float()


def fitting(name: str, measure: Callable[[], Row]) -> Row:
    """Returns a row, or one that says that the card is too small for it."""
    try:
        return measure()
    except torch.OutOfMemoryError:
        return Row(name, {"GiB": "does not fit"})


def as_planned(taken: Taken, planned: float, scale: Scale) -> bool | None:
    """Says whether a peak of memory is within a fifth of the plan; on the CPU it is of more than this work.

    Args:
        planned: bytes.
    """
    return abs(taken.gib * 2**30 / planned - 1) <= 0.2 if scale.is_gpu else None


@contextmanager
def freed(scale: Scale) -> Iterator[None]:
    """Gives the memory of what was measured inside back to the device."""
    try:
        yield
    finally:
        if scale.is_gpu:
            torch.cuda.empty_cache()
