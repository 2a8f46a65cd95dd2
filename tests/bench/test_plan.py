"""The memory plan against measured peaks, on the CPU with a denoiser of 27 million weights in its blocks.

make bench            or            python -m pytest -m slow -s tests/bench/test_plan.py

Each stage runs in a process of its own, warmed up with a much smaller one of its kind. Measured is the kernel's
high-water mark of resident memory above what the process held before it had a model; large tensors are mapped one by
one (MALLOC_MMAP_THRESHOLD_), so that what is freed is gone. The vocabulary is large enough for the sampler's logits to
count.
"""

from dataclasses import dataclass

import pytest
import torch

from tasks.gdsd.config.compute import ComputeConfig
from tasks.gdsd.config.objective import GdsdConfig
from tasks.gdsd.config.policy import AdapterConfig
from tasks.gdsd.config.sampler import ExactConfig, SamplerConfig
from tasks.gdsd.config.train import DistillConfig
from tasks.gdsd.distill.epoch import round_maps
from tasks.gdsd.planning import memory as footprint
from tasks.gdsd.planning.shapes import Shape
from tasks.gdsd.rollout.engines.base import Request
from tasks.gdsd.rollout.engines.exact import Exact
from tests.bench.harness import apart, peak_mib, show
from tests.bench.models import build, round_of, train

SHAPE = Shape(vocabulary=8192, width=512, inner=1536, layers=8, heads=8, kv_heads=8, head_width=64)
SMALL = Shape(vocabulary=64, width=32, inner=48, layers=1, heads=2, kv_heads=2, head_width=16)
ADAPTER = AdapterConfig(rank=16, alpha=16.0)
PROMPT, LENGTH, BATCH = 32, 64, 8
SAMPLER = SamplerConfig(length=LENGTH, block_length=LENGTH, steps_per_block=2)
PLAIN = DistillConfig(objective=GdsdConfig(reference_weight=0, mask_source="random"), inner_steps=2, ema_decay=0)
TOLERANCE = 0.2


@dataclass(frozen=True)
class Update:
    """An update of all weights, or of an adapter's."""

    compute: ComputeConfig = PLAIN.compute
    adapter: AdapterConfig | None = None
    has_reference: bool = False

    @property
    def config(self) -> DistillConfig:
        objective = PLAIN.objective
        if self.has_reference:
            objective = objective.model_copy(update={"form": "penalty", "reference_weight": 0.1})
        return PLAIN.model_copy(update={"compute": self.compute, "objective": objective})

    @property
    def groups(self) -> tuple[int, int]:
        """Groups, and completions of each; a CPU is slow in half precision, where a pair has to do."""
        return (1, 2) if self.compute.precision == "bfloat16" else (2, 4)

    def run(self, shape: Shape) -> None:
        denoiser = build(shape)
        if self.adapter is not None:
            denoiser.attach_adapter(self.adapter, seed=0)
        reference = None
        if self.has_reference:
            reference = build(shape).requires_grad_(False)
            round_maps(reference)
        rewarded = round_of(denoiser.encode("0123456789abcdef"), *self.groups, PROMPT, LENGTH)
        train(denoiser, rewarded, self.config, self.groups[1], reference)

    def planned(self) -> footprint.Memory:
        groups, group = self.groups
        sizes = (groups * group, group, PROMPT, SAMPLER, footprint.FLOAT)
        return footprint.of_epoch(SHAPE, self.config, *sizes, self.adapter)


RECOMPUTED = ComputeConfig(gradient_checkpointing=True)
HALF = ComputeConfig(precision="bfloat16")
BOTH = ComputeConfig(precision="bfloat16", gradient_checkpointing=True)
UPDATES = {
    "full step": Update(),
    "full step, cut in four": Update(ComputeConfig(micro_batch_tokens=4 * (PROMPT + LENGTH))),
    "full step, recomputed": Update(RECOMPUTED),
    "adapter step": Update(adapter=ADAPTER),
    "adapter step, recomputed": Update(RECOMPUTED, ADAPTER),
    "full step in half precision": Update(HALF),
    "full step in half precision, recomputed": Update(BOTH),
    "full step in half precision, recomputed, with a reference": Update(BOTH, has_reference=True),
    "adapter step in half precision": Update(HALF, ADAPTER),
}


@torch.no_grad()
def sample(shape: Shape) -> None:
    denoiser = build(shape)
    requests = [Request(denoiser.encode("1") * PROMPT, key) for key in range(BATCH)]
    for _ in Exact(denoiser, ExactConfig()).generate(requests, SAMPLER, BATCH):
        pass


def peak(stage: str) -> float:
    torch.set_num_threads(1)
    run = {"weights": build, "rollout": sample}.get(stage) or UPDATES[stage].run
    return peak_mib(lambda: run(SMALL), lambda: run(SHAPE))


@pytest.mark.slow
def test_the_plan_is_within_a_fifth_of_the_measured_peak() -> None:
    """If it fails, the plan says that a model fits where it does not, or that it needs a larger GPU than it does."""
    rollout = footprint.of_sampling(SHAPE, BATCH, PROMPT, SAMPLER, footprint.FLOAT)
    planned = {"weights": rollout.weights, "rollout": rollout.total}
    planned |= {stage: update.planned().total for stage, update in UPDATES.items()}
    settings = {"MALLOC_MMAP_THRESHOLD_": str(2**16), "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
    rows = {}
    for stage, plan in planned.items():
        measured = apart(peak, stage, **settings)
        rows[stage] = {
            "planned MiB": plan / 2**20,
            "measured MiB": measured,
            "ratio": plan / 2**20 / measured,
        }
    show(f"body {SHAPE.body / 1e6:.1f} M, V {SHAPE.vocabulary}, {BATCH} completions of {PROMPT} + {LENGTH}", rows)
    assert [stage for stage, row in rows.items() if abs(row["ratio"] - 1) > TOLERANCE] == []
