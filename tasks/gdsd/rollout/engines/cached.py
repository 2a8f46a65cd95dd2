"""Approximate engines: keys and values are read again instead of computed anew (arXiv 2505.22618).

Bidirectional states change with every token that is unmasked anywhere, so what is kept is stale from the next step on:
completions are not quite the policy's. What an engine costs in agreement and reward is measured, see `drift`.
"""

from abc import abstractmethod

from torch import Tensor

from tasks.gdsd.config.sampler import CacheConfig, DualCacheConfig, PrefixCacheConfig, SamplerConfig, check_cache
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.denoiser.partial import KeyValues, states_at
from tasks.gdsd.rollout.engines.unmasking import Canvas, Unmasking


class Cached(Unmasking):
    """Reads the whole canvas in a block's first step, and every so many steps; in the others a part of it."""

    def __init__(self, denoiser: Denoiser, config: CacheConfig):
        super().__init__(denoiser)
        self._config = config
        self._kept = KeyValues()

    def resolve(self, settings: SamplerConfig) -> SamplerConfig:
        """See the base class.

        Raises:
            ConfigError: in the order of the policy's family a block has too few denoiser calls.
        """
        resolved = super().resolve(settings)
        check_cache(self._config, resolved)
        return resolved

    @abstractmethod
    def part(self, canvas: Canvas) -> slice:
        """Returns the places whose states are computed in every step."""

    def states(self, canvas: Canvas, hidden_at: Tensor, step: int) -> Tensor:
        """Reads all places where the cache is due, and else those of the part."""
        every = self._config.refresh_every
        is_due = step == 0 or (every is not None and step % every == 0)
        if is_due:
            self._kept = KeyValues()
        part = slice(0, canvas.ids.shape[1]) if is_due else self.part(canvas)
        self.work.calls += 1
        self.work.positions += canvas.ids.shape[0] * (part.stop - part.start)
        return states_at(self.denoiser, canvas.ids, canvas.attention, hidden_at, part, self._kept)

    def _begin(self, canvas: Canvas) -> int:
        """The first place that predicts a token of the block."""
        return max(0, canvas.block.start - self.denoiser.family.shifted)


class PrefixCache(Cached):
    """Keeps what comes before the block."""

    def __init__(self, denoiser: Denoiser, config: PrefixCacheConfig):
        super().__init__(denoiser, config)

    def part(self, canvas: Canvas) -> slice:
        """Returns the block and all after it."""
        return slice(self._begin(canvas), canvas.ids.shape[1])


class DualCache(Cached):
    """Keeps what comes before and after the block."""

    def __init__(self, denoiser: Denoiser, config: DualCacheConfig):
        super().__init__(denoiser, config)

    def part(self, canvas: Canvas) -> slice:
        """Returns the block."""
        return slice(self._begin(canvas), canvas.block.stop)
