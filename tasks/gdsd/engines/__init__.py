"""The engines that make completions, by name. One file each; adding one is a file, its configuration and two lines."""

from typing import assert_never

from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.engine_config import (
    DualCacheConfig,
    EngineConfig,
    ExactConfig,
    PrefixCacheConfig,
    ThresholdConfig,
)
from tasks.gdsd.engines.base import Engine
from tasks.gdsd.engines.cached import DualCache, PrefixCache
from tasks.gdsd.engines.exact import Exact
from tasks.gdsd.engines.threshold import Threshold

__all__ = ["Engine", "make"]


def make(config: EngineConfig, denoiser: Denoiser) -> Engine:
    """Returns the engine of a configuration, for one policy."""
    match config:
        case ExactConfig():
            return Exact(denoiser, config)
        case PrefixCacheConfig():
            return PrefixCache(denoiser, config)
        case DualCacheConfig():
            return DualCache(denoiser, config)
        case ThresholdConfig():
            return Threshold(denoiser, config)
        case _:
            assert_never(config)
