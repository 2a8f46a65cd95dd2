"""The engines that make completions, by name, one kind a file; docs/extending.md adds one.

Other code asks for no engine by name, but the plan of a run takes one that it does not know for the exact one, see
`planning.work.completion`.
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
