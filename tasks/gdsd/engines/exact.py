"""The exact engine: every step reads the whole canvas, and logits are made where a token of the block is hidden."""

from torch import Tensor

from tasks.gdsd.denoiser import partial
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.engine_config import ExactConfig
from tasks.gdsd.engines.unmasking import Canvas, Unmasking


class Exact(Unmasking):
    """Samples from the policy's own distribution."""

    def __init__(self, denoiser: Denoiser, config: ExactConfig):
        super().__init__(denoiser)
        self._read = partial.compiled(denoiser) if config.compile else partial.reader(denoiser)

    def states(self, canvas: Canvas, hidden_at: Tensor, step: int) -> Tensor:
        """Reads the whole canvas."""
        self.work.calls += 1
        self.work.positions += canvas.ids.numel()
        return self._read(canvas.ids, canvas.attention, hidden_at)
