"""Whether losses and gradients are the CPU's, for each objective, and what bfloat16 changes of them."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.gdsd.config.objective import (
    DiffuGrpoConfig,
    EspoConfig,
    GdsdConfig,
    ObjectiveConfig,
    SpgConfig,
    Wd1Config,
)
from tasks.gdsd.config.policy import AdapterConfig
from tasks.gdsd.config.train import DistillConfig
from tasks.gdsd.denoiser import checkpoint
from tests.gdsd import epochs
from tests.gdsd.conftest import build
from tests.gpu.results import Row
from tests.gpu.scale import Scale

LARGEST, LARGEST_IN_HALF = 1e-3, 0.1  # differences of gradients, as a share
ADAPTED = "gdsd, an adapter"
OBJECTIVES: Mapping[str, ObjectiveConfig] = {
    "gdsd, log_prob": epochs.OBJECTIVE,
    "gdsd, centred": epochs.OBJECTIVE.model_copy(update={"readout": "centred"}),
    "gdsd, pulled": GdsdConfig(),
    ADAPTED: epochs.OBJECTIVE,
    "espo": EspoConfig(),
    "spg": SpgConfig(),
    "wd1": Wd1Config(),
    "diffu_grpo": DiffuGrpoConfig(),
}


@dataclass(frozen=True)
class Update:
    """What one update leaves."""

    loss: float
    gradient: Tensor  # (P,): of all that is trained, on the CPU


def update(config: DistillConfig, device: torch.device, adapter: bool) -> Update:
    """Takes one update of a small policy; its gradient is read off Adam's first moment, which began with nothing."""
    denoiser, base = build(), build(seed=1)
    if adapter:
        denoiser.attach_adapter(AdapterConfig(rank=4, alpha=8.0), 0)
    reference = None if adapter else checkpoint.base_state(base.to(device))
    table = epochs.rewarded(denoiser)
    state, stats = epochs.run(checkpoint.base_state(copy.deepcopy(denoiser).to(device)), table, config, reference)
    moments = [moment for name, moment in state.optimizer.items() if name.endswith(".exp_avg")]
    gradient = torch.cat([moment.flatten() for moment in moments]).cpu() / (1 - config.adam_beta1)
    (step,) = stats.steps
    assert step.loss is not None and not step.skipped
    return Update(step.loss, gradient)


def row(name: str, found: Update, wanted: Update, most: float) -> Row:
    off = float((found.gradient - wanted.gradient).norm() / wanted.gradient.norm())
    return Row(name, {"loss": found.loss, "loss there": wanted.loss, "off": f"{off:.1e}"}, off <= most)


def measure(scale: Scale) -> Iterator[Row]:
    for name, objective in OBJECTIVES.items():
        config = epochs.CONFIG.model_copy(update={"objective": objective, "inner_steps": 1})
        adapter = name == ADAPTED
        # The device comes first: accelerate keeps the first one of a process, and autocasts on it.
        here, there = (update(config, device, adapter) for device in (scale.device, torch.device("cpu")))
        yield row(name, here, there, LARGEST)
    for adapter in (False, True):
        config = epochs.configured(inner_steps=1)
        half, full = (
            update(epochs.computed(config, precision=precision), scale.device, adapter)
            for precision in ("bfloat16", "float32")
        )
        yield row(f"bfloat16, {'an adapter' if adapter else 'all weights'}", half, full, LARGEST_IN_HALF)
