"""Confidence-threshold unmasking, for evaluations under a protocol name of its own (arXiv 2505.22618)."""

import torch
from torch import Tensor

from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.denoiser.partial import states_at
from tasks.gdsd.engine_config import SamplerConfig, ThresholdConfig
from tasks.gdsd.engines.choice import Rules
from tasks.gdsd.engines.unmasking import Canvas, Unmasking
from tasks.gdsd.errors import ConfigError


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

    def states(self, canvas: Canvas, hidden_at: Tensor, step: int) -> Tensor:
        """Reads the whole canvas."""
        self.work.calls += 1
        self.work.positions += canvas.ids.numel()
        return states_at(self.denoiser, canvas.ids, canvas.attention, hidden_at)

    def unmask_block(self, canvas: Canvas, settings: SamplerConfig, rules: Rules, first_step: int) -> None:
        """Unmasks the canvas's block; how many steps that takes, each of them has to be waited for to know."""
        head, batch, block = self.denoiser.head(), len(canvas.which), canvas.block
        places = torch.arange(block.start, block.stop, device=canvas.ids.device).expand(batch, -1)  # (B, R)
        own = slice(block.start - canvas.start, block.stop - canvas.start)
        hidden = torch.ones_like(places, dtype=torch.bool)
        for step, share in enumerate(settings.shares(), first_step):
            states = self.states(canvas, places, step - first_step)
            tokens, ranks = self.draw(states, head, canvas, places, step, rules)
            ranks = ranks.masked_fill(~hidden, -torch.inf)
            turn = ranks.argsort(dim=1, descending=True, stable=True).argsort(dim=1)  # (B, R)
            now = hidden & ((turn < share) | (ranks >= self._confidence))
            canvas.ids[:, block] = torch.where(now, tokens, canvas.ids[:, block])
            canvas.unmasked_at[:, own] = torch.where(now, step, canvas.unmasked_at[:, own])
            canvas.calls += hidden.any(1)
            hidden &= ~now
            if not bool(hidden.any()):
                return
