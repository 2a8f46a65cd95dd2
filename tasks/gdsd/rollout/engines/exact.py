"""The exact engine: every step reads the whole canvas, and logits are made where a token of the block is hidden."""

import torch
from torch import Tensor

from tasks.gdsd.config.sampler import ExactConfig
from tasks.gdsd.denoiser import partial
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.rollout.engines.unmasking import Canvas, Unmasking


class Exact(Unmasking):
    """Samples from the policy's own distribution."""

    def __init__(self, denoiser: Denoiser, config: ExactConfig):
        super().__init__(denoiser)
        self._compiled = partial.compiled(denoiser) if config.compile else None

    def states(self, canvas: Canvas, hidden_at: Tensor, step: int) -> Tensor:
        """Reads the whole canvas, by compiled code if the configuration asks for it."""
        if self._compiled is None:
            return super().states(canvas, hidden_at, step)
        self.count(canvas, canvas.ids.shape[1])
        # Rows of the whole block, since each number of them would be compiled anew.
        block = torch.arange(canvas.block.start, canvas.block.stop, device=canvas.ids.device)  # (M,)
        states = self._compiled(canvas.ids, canvas.attention, block.expand(len(canvas.which), -1))  # (B, M, D)
        return partial.take(states, hidden_at - canvas.block.start)
