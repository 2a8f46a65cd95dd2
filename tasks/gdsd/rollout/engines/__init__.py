"""The engines that make completions: prompts and keys of random numbers come in, and completions go out.

Each kind has a file. Read `base` first, then `unmasking`. docs/extending.md adds an engine.
"""

from typing import assert_never

from tasks.gdsd.config.sampler import DualCacheConfig, EngineConfig, ExactConfig, PrefixCacheConfig, ThresholdConfig
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.rollout.engines.base import Engine
from tasks.gdsd.rollout.engines.cached import Cached
from tasks.gdsd.rollout.engines.exact import Exact
from tasks.gdsd.rollout.engines.threshold import Threshold

__all__ = ["Engine", "make"]


def make(config: EngineConfig, denoiser: Denoiser) -> Engine:
    """Returns the engine of a configuration, for one policy."""
    match config:
        case ExactConfig():
            return Exact(denoiser, config)
        case PrefixCacheConfig() | DualCacheConfig():
            return Cached(denoiser, config)
        case ThresholdConfig():
            return Threshold(denoiser, config)
        case _:
            assert_never(config)
