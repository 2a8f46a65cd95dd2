"""The memory plan against measured peaks, on the CPU with a denoiser of 27 million weights in its blocks.

make bench            or            python -m pytest -m slow -s tests/bench/test_plan.py

Each stage runs in a process of its own, warmed up with a much smaller one of its kind. Measured is the kernel's
high-water mark of resident memory above what the process held before it had a model; large tensors are mapped one by
one (MALLOC_MMAP_THRESHOLD_), so that what is freed is gone. The vocabulary is large enough for the sampler's logits to
count. Linux only.
"""

import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tasks.gdsd.config.compute import ComputeConfig
from tasks.gdsd.config.policy import AdapterConfig
from tasks.gdsd.config.sampler import ExactConfig, SamplerConfig
from tasks.gdsd.config.train import DistillConfig
from tasks.gdsd.denoiser import checkpoint
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.denoiser.families.tiny import TINY
from tasks.gdsd.denoiser.tokenizer import character_tokenizer
from tasks.gdsd.distill import loop
from tasks.gdsd.distill.epoch import round_maps
from tasks.gdsd.planning import memory as footprint
from tasks.gdsd.planning import shapes
from tasks.gdsd.rollout.engines.base import Request
from tasks.gdsd.rollout.engines.exact import Exact
from tests.bench.resident import resident_mib

SHAPE = shapes.Shape(vocabulary=8192, width=512, inner=1536, layers=8, heads=8, kv_heads=8, head_width=64)
SMALL = shapes.Shape(vocabulary=64, width=32, inner=48, layers=1, heads=2, kv_heads=2, head_width=16)
ADAPTER = AdapterConfig(rank=16, alpha=16.0)
PROMPT, LENGTH, GROUPS, GROUP = 32, 64, 2, 4
SAMPLER = SamplerConfig(length=LENGTH, block_length=LENGTH, steps_per_block=2)
DISTILL = DistillConfig(inner_steps=2)
CUT = DISTILL.model_copy(update={"compute": ComputeConfig(micro_batch_tokens=4 * (PROMPT + LENGTH))})
MIXED = DISTILL.model_copy(update={"compute": ComputeConfig(precision="bfloat16")})
MIXED_RECOMPUTED = DISTILL.model_copy(
    update={"compute": ComputeConfig(precision="bfloat16", gradient_checkpointing=True)}
)
COMPARED = MIXED_RECOMPUTED.model_copy(
    update={"objective": DISTILL.objective.model_copy(update={"form": "penalty", "reference_weight": 0.1})}
)
RECOMPUTED = DISTILL.model_copy(update={"compute": ComputeConfig(gradient_checkpointing=True)})
TOLERANCE = 0.2


def build(shape: shapes.Shape) -> Denoiser:
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        use_cache=False,
    )
    config.is_causal = False
    return Denoiser(LlamaForCausalLM(config), character_tokenizer(), TINY).eval()


@torch.no_grad()
def sample(denoiser: Denoiser, batch: int) -> None:
    requests = [Request(denoiser.encode("1") * PROMPT, key) for key in range(batch)]
    for _ in Exact(denoiser, ExactConfig()).generate(requests, SAMPLER, batch):
        pass


def round_of(tokens: Sequence[int], groups: int, group: int, prompt: int, length: int) -> pa.Table:
    """A rewarded round of made-up completions, all of which carry a signal."""
    rows = [
        {
            "prompt_id": f"p{number}",
            "sample": sample,
            "prompt_ids": [tokens[0]] * prompt,
            "completion_ids": [tokens[(number + sample + place) % len(tokens)] for place in range(length)],
            "unmasked_at": [place // 4 for place in range(length)],
            "advantage": float(sample) - (group - 1) / 2,
        }
        for number in range(groups)
        for sample in range(group)
    ]
    return pa.Table.from_pylist(rows)


def train(
    denoiser: Denoiser, rewarded: pa.Table, config: DistillConfig, group: int, base: Denoiser | None = None
) -> None:
    """One epoch from the base: there are no moments yet that a checkpoint could have brought."""
    loop.distill(
        checkpoint.base_state(denoiser),
        None if base is None else checkpoint.base_state(base),
        rewarded,
        config,
        round_index=0,
        group_size=group,
        seed=0,
        parent="00",
        evidence=Path(tempfile.gettempdir()),
    )


def step(denoiser: Denoiser, config: DistillConfig = DISTILL, base: Denoiser | None = None) -> None:
    """A CPU is slow in half precision, where a pair of completions has to do."""
    groups, group = (1, 2) if config.compute.precision == "bfloat16" else (GROUPS, GROUP)
    rewarded = round_of(denoiser.encode("0123456789abcdef"), groups, group, PROMPT, LENGTH)
    train(denoiser, rewarded, config, group, base)


def reference(shape: shapes.Shape) -> Denoiser:
    denoiser = build(shape).requires_grad_(False)
    round_maps(denoiser)
    return denoiser


def adapted(denoiser: Denoiser) -> Denoiser:
    denoiser.attach_adapter(ADAPTER, seed=0)
    return denoiser


STAGES: dict[str, Callable[[shapes.Shape], object]] = {
    "weights": build,
    "full step": lambda shape: step(build(shape)),
    "full step, cut in four": lambda shape: step(build(shape), CUT),
    "full step, recomputed": lambda shape: step(build(shape), RECOMPUTED),
    "adapter step": lambda shape: step(adapted(build(shape))),
    "adapter step, recomputed": lambda shape: step(adapted(build(shape)), RECOMPUTED),
    "full step in half precision": lambda shape: step(build(shape), MIXED),
    "full step in half precision, recomputed": lambda shape: step(build(shape), MIXED_RECOMPUTED),
    "full step in half precision, recomputed, with a reference": lambda shape: step(
        build(shape), COMPARED, reference(shape)
    ),
    "adapter step in half precision": lambda shape: step(adapted(build(shape)), MIXED),
    "rollout": lambda shape: sample(build(shape), GROUPS * GROUP),
}


def planned() -> dict[str, footprint.Memory]:
    def epoch(config: DistillConfig, adapter: AdapterConfig | None = None) -> footprint.Memory:
        completions, group = (2, 2) if config.compute.precision == "bfloat16" else (GROUPS * GROUP, GROUP)
        sizes = (completions, group, PROMPT, LENGTH, footprint.FLOAT)
        return footprint.of_epoch(SHAPE, config, *sizes, adapter)

    rollout = footprint.of_sampling(SHAPE, GROUPS * GROUP, PROMPT, SAMPLER, footprint.FLOAT)
    return {
        "weights": footprint.Memory(rollout.weights),
        "full step": epoch(DISTILL),
        "full step, cut in four": epoch(CUT),
        "full step, recomputed": epoch(RECOMPUTED),
        "adapter step": epoch(DISTILL, ADAPTER),
        "adapter step, recomputed": epoch(RECOMPUTED, ADAPTER),
        "full step in half precision": epoch(MIXED),
        "full step in half precision, recomputed": epoch(MIXED_RECOMPUTED),
        "full step in half precision, recomputed, with a reference": epoch(COMPARED),
        "adapter step in half precision": epoch(MIXED, ADAPTER),
        "rollout": rollout,
    }


def measured(stage: str) -> float:
    """Returns the peak of a stage in MiB, taken in a new process; see the end of this file."""
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "tests.bench.test_plan", stage]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**16), "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)


@pytest.mark.slow
def test_the_plan_is_within_a_fifth_of_the_measured_peak() -> None:
    """If it fails, the plan says that a model fits where it does not, or that it needs a larger GPU than it does."""
    found = {stage: (memory.total / 2**20, measured(stage)) for stage, memory in planned().items()}
    print(f"\nbody {SHAPE.body / 1e6:.1f} M, V {SHAPE.vocabulary}, {GROUPS * GROUP} completions of {PROMPT} + {LENGTH}")
    print("| stage | planned | measured | ratio |\n|---|---|---|---|")
    for stage, (plan, peak) in found.items():
        print(f"| {stage} | {plan:.0f} MiB | {peak:.0f} MiB | {plan / peak:.2f} |")
    print(json.dumps({stage: {"planned_mib": plan, "measured_mib": peak} for stage, (plan, peak) in found.items()}))
    for stage, (plan, peak) in found.items():
        assert abs(plan / peak - 1) <= TOLERANCE, stage


if __name__ == "__main__":
    torch.set_num_threads(1)
    run = STAGES[sys.argv[1]]
    run(SMALL)
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = resident_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    run(SHAPE)
    print(resident_mib("VmHWM") - before)
