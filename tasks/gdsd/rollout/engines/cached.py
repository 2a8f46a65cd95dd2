"""Approximate engines: keys and values are read again instead of computed anew (arXiv 2505.22618).

Bidirectional states change with every token that is unmasked anywhere. So what is kept is stale from the next step on,
and the completions are not quite the policy's. `evaluate/drift` measures what that costs in agreement and reward.
"""

from torch import Tensor

from tasks.gdsd.config.sampler import CacheConfig, DualCacheConfig, SamplerConfig, check_cache
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.denoiser.partial import KeyValues, states_at
from tasks.gdsd.rollout.engines.unmasking import Canvas, Unmasking


class Cached(Unmasking):
    """Reads the whole canvas in a block's first step, and every so many steps; in the others a part of it.

    The prefix cache keeps what comes before the block, the dual cache what comes after it as well.
    """

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

    def states(self, canvas: Canvas, hidden_at: Tensor, step: int) -> Tensor:
        """Reads all places where the cache is due, and else those that are not kept."""
        every = self._config.refresh_every
        part = slice(0, canvas.ids.shape[1])
        if step == 0 or (every is not None and step % every == 0):
            self._kept = KeyValues()
        else:
            # From the first place that predicts a token of the block.
            begin = max(0, canvas.block.start - self.denoiser.family.shifted)
            part = slice(begin, canvas.block.stop if isinstance(self._config, DualCacheConfig) else part.stop)
        self.count(canvas, part.stop - part.start)
        return states_at(self.denoiser, canvas.ids, canvas.attention, hidden_at, part, self._kept)
