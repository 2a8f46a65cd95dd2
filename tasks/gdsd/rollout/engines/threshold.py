"""The threshold engine unmasks whatever is sure enough, for evaluations whose protocol says so (arXiv 2505.22618)."""

import torch

from tasks.gdsd.config.sampler import SamplerConfig, ThresholdConfig
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.errors import ConfigError
from tasks.gdsd.rollout.engines.choice import Rules, uncertainty
from tasks.gdsd.rollout.engines.unmasking import Canvas, Unmasking


class Threshold(Unmasking):
    """Reads the whole canvas, and unmasks the step's share and whatever else is sure enough."""

    def __init__(self, denoiser: Denoiser, config: ThresholdConfig):
        super().__init__(denoiser)
        self._confidence = config.confidence

    def resolve(self, settings: SamplerConfig) -> SamplerConfig:
        """See the base class.

        Raises:
            ConfigError: the order is by entropy, which no probability can be compared with.
        """
        resolved = super().resolve(settings)
        if resolved.order != "confidence":
            raise ConfigError(
                f"the engine 'threshold' compares probabilities, but sampler.order is {resolved.order!r}; "
                "set it to 'confidence', or use the engine 'exact'"
            )
        return resolved

    def unmask_block(self, canvas: Canvas, settings: SamplerConfig, rules: Rules, first_step: int) -> None:
        """Unmasks the canvas's block; a sequence is read until nothing of its block is hidden.

        Each step has to be waited for to know.
        """
        head, device = self.denoiser.head(), canvas.ids.device
        left = torch.arange(len(canvas.which), device=device)  # (N,): the sequences with hidden tokens
        places = torch.arange(canvas.block.start, canvas.block.stop, device=device).expand(len(left), -1)  # (N, R)
        hidden = torch.ones_like(places, dtype=torch.bool)  # each sequence's own first
        for step, share in enumerate(settings.shares(), first_step):
            some = canvas.rows(left)
            states = self.states(some, places, step - first_step)
            tokens, ranks = self.draw(states, head, some, places, step, rules)  # (N, R) each
            canvas.is_finite[left] &= ranks.isfinite().all(1)
            ranks = ranks.masked_fill(~hidden, -torch.inf)
            turn = ranks.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
            now = hidden & ((turn < share) | (ranks >= self._confidence))
            row, column = now.nonzero(as_tuple=True)
            at = left[row], places[row, column]
            canvas.ids[at] = tokens[row, column]
            canvas.unmasked_at[at[0], at[1] - canvas.start] = step
            canvas.uncertainty[at[0], at[1] - canvas.start] = uncertainty(ranks[row, column], rules.order)
            canvas.calls[left] += 1
            hidden = hidden & ~now
            going = hidden.any(1)
            left, places, hidden = left[going], places[going], hidden[going]
            if not len(left):
                return
            order = hidden.int().argsort(dim=1, descending=True, stable=True)[:, : int(hidden.sum(1).max())]
            places, hidden = places.gather(1, order), hidden.gather(1, order)
