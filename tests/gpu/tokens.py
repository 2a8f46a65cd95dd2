"""Whether the device draws the CPU's tokens: each family and engine, greedy and with random numbers."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from tasks.gdsd import seeds
from tasks.gdsd.config.sampler import DualCacheConfig, EngineConfig, ExactConfig, PrefixCacheConfig, SamplerConfig
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.denoiser.load import load_folder
from tasks.gdsd.rollout import engines
from tasks.gdsd.rollout.engines.base import Request
from tests.gdsd.official import WRITERS
from tests.gpu.results import Row
from tests.gpu.scale import Scale

ENGINES: dict[str, EngineConfig] = {
    "exact": ExactConfig(),
    "prefix_cache": PrefixCacheConfig(),
    "dual_cache": DualCacheConfig(),
}
TEXTS = ["12 and the 1", "the", "3 times 12 is", "x"]  # of several lengths, so that some are padded
REQUESTS = 8
SETTINGS = SamplerConfig(length=32, block_length=16, steps_per_block=4)
LEAST = 0.98  # share of equal tokens where random numbers draw: a border that is crossed changes what follows


def completions(denoiser: Denoiser, engine: EngineConfig, settings: SamplerConfig) -> list[list[int]]:
    requests = [Request(denoiser.encode(TEXTS[n % len(TEXTS)]), seeds.key("gpu", n)) for n in range(REQUESTS)]
    made = engines.make(engine, denoiser).complete(requests, settings, REQUESTS, "tokens")
    return [completion.ids for completion in made]


def equal(first: list[list[int]], second: list[list[int]]) -> float:
    """Returns the share of equal tokens in the same places."""
    pairs = [pair for ids in zip(first, second, strict=True) for pair in zip(*ids, strict=True)]
    return sum(one == other for one, other in pairs) / len(pairs)


def measure(scale: Scale) -> Iterator[Row]:
    for family, write in WRITERS.items():
        with tempfile.TemporaryDirectory() as name:
            write(Path(name))
            here, there, half = (
                load_folder(Path(name), family, device, dtype)
                for device, dtype in (
                    (scale.device, torch.float32),
                    (torch.device("cpu"), torch.float32),
                    (scale.device, torch.bfloat16),
                )
            )
        for engine, config in ENGINES.items():
            for temperature in (0.0, 1.0):
                settings = SETTINGS.model_copy(update={"temperature": temperature})
                share = equal(completions(here, config, settings), completions(there, config, settings))
                holds = share == 1 if temperature == 0 else share >= LEAST
                yield Row(f"{family}, {engine}, T = {temperature:g}", {"equal tokens": f"{share:.2%}"}, holds)
        share = equal(*(completions(denoiser, ExactConfig(), SETTINGS) for denoiser in (here, half)))
        yield Row(f"{family}, exact, T = 1, bfloat16 here against float32 here", {"equal tokens": f"{share:.2%}"})
