"""Training objectives: scores and advantages come in, and a loss goes out. They are pure functions.

Each objective has a file, and all have one signature. Read `base` first, then `gdsd`.
"""

from torch import Tensor

from tasks.gdsd.config.objective import DiffuGrpoConfig, EspoConfig, GdsdConfig, ObjectiveConfig, SpgConfig, Wd1Config
from tasks.gdsd.objectives.base import LossMetrics, Scores
from tasks.gdsd.objectives.diffu_grpo import diffu_grpo_loss
from tasks.gdsd.objectives.espo import espo_loss
from tasks.gdsd.objectives.gdsd import gdsd_loss
from tasks.gdsd.objectives.spg import spg_loss
from tasks.gdsd.objectives.wd1 import wd1_loss

__all__ = ["LossMetrics", "Scores", "objective_loss"]


def objective_loss(
    scores: Scores,
    advantages: Tensor,  # (B,) float32
    config: ObjectiveConfig,
) -> tuple[Tensor, LossMetrics]:  # () sum over sequences
    """Returns the loss of the configured objective, summed over the judged sequences, and its metrics."""
    match config:
        case GdsdConfig():
            return gdsd_loss(scores, advantages, config)
        case EspoConfig():
            return espo_loss(scores, advantages, config)
        case SpgConfig():
            return spg_loss(scores, advantages, config)
        case Wd1Config():
            return wd1_loss(scores, advantages, config)
        case DiffuGrpoConfig():
            return diffu_grpo_loss(scores, advantages, config)
    raise ValueError(f"{type(config).__name__} is not the configuration of an objective")
