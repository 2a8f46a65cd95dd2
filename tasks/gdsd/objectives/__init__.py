"""Training objectives: pure functions from scores and advantages to a loss. One file each."""

from tasks.gdsd.objectives.base import LossMetrics, Scores
from tasks.gdsd.objectives.gdsd import gdsd_loss

__all__ = ["LossMetrics", "Scores", "gdsd_loss"]
