"""Rollouts and distillation at the sizes of LLaDA-8B and Dream-7B, with random weights: no download.

On a machine with a GPU:  python -m pytest -m "gpu and slow" -s tests/bench/test_gpu.py

Rollouts: tokens per second of the sampler in blocks of 32, in a few steps. Distillation: one update with an adapter of
rank 128 on a handful of completions. Each is compared with the plain dense step in the same run, which computes the
logits of every token: for rollouts with Gumbel noise on them, for distillation with a log-softmax and its gradient.
Shares are of what a product of two large matrices reaches on the same device, for operations as tasks.gdsd.planning
counts them.
Times are medians after one warm-up. The last line is JSON.
"""

import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tasks.gdsd.config.compute import ComputeConfig
from tasks.gdsd.config.objective import GdsdConfig
from tasks.gdsd.config.policy import AdapterConfig
from tasks.gdsd.config.sampler import ExactConfig, SamplerConfig
from tasks.gdsd.config.train import DistillConfig
from tasks.gdsd.denoiser import families, networks, tokenizer_files
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.planning import memory as footprint
from tasks.gdsd.planning import shapes, work
from tasks.gdsd.rollout.engines.base import Request
from tasks.gdsd.rollout.engines.exact import Exact
from tests.bench.resident import resident_mib
from tests.bench.test_plan import round_of, train
from tests.gdsd.denoiser.test_families import DREAM_7B, LLADA_8B
from tests.gdsd.official import WRITERS, dream_config, llada_config

REPETITIONS = 3
OBJECTIVE = GdsdConfig(mask_source="random", weights="elbo", trust_region=None)
LONG = SamplerConfig(length=256, block_length=32, steps_per_block=2)
LITTLE = SamplerConfig(length=16, block_length=8, steps_per_block=2)


@dataclass(frozen=True)
class Case:
    """A model's configuration, and how much of it is measured."""

    values: dict[str, object]
    prompt: int = 200
    sampler: SamplerConfig = LONG
    batch: int = 16  # completions that are sampled together
    group: int = 2  # completions of the update, in two views each
    rank: int = 128


CASES = {"LLaDA-8B": Case(LLADA_8B), "Dream-7B": Case(DREAM_7B)}
SMALL = {
    "small LLaDA": Case(llada_config(), 8, LITTLE, batch=2, rank=4),
    "small Dream": Case(dream_config(), 8, LITTLE, batch=2, rank=4),
}


@dataclass(frozen=True)
class Measured:
    device: str
    model: str
    matmul_tflops: float  # what a large product reaches, in the precision of the weights
    rollout_tokens_per_s: float
    rollout_share: float  # of matmul_tflops
    rollout_speedup: float  # over the plain dense step
    rollout_peak_gib: float
    distill_seconds: float
    distill_share: float
    distill_speedup: float
    distill_peak_gib: float
    planned_rollout_gib: float
    planned_distill_gib: float


def random_denoiser(values: dict[str, object], folder: Path, device: torch.device, dtype: torch.dtype) -> Denoiser:
    """A denoiser of a published shape, filled on its device; tokenizer and special tokens are a small model's."""
    family = families.of_config(values)
    WRITERS[family.name](folder)
    network = networks.build(family, values)
    source = torch.Generator(device).manual_seed(0)
    for name, parameter in list(network.named_parameters()):
        module, _, kind = name.rpartition(".")
        filled = torch.ones(parameter.shape, device=device, dtype=dtype)
        if parameter.dim() > 1:
            filled.normal_(0.0, 0.02, generator=source)
        network.get_submodule(module).register_parameter(kind, torch.nn.Parameter(filled))
    networks.finish(network, family, device)
    files = {"config.json": json.dumps(values).encode()}
    return Denoiser(network, tokenizer_files.load(folder), family, files).eval()


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def timed(work: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Returns median seconds, and the peak of memory in GiB: on the CPU of the whole process, ever."""
    work()
    synchronise(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(REPETITIONS):
        began = time.perf_counter()
        work()
        synchronise(device)
        seconds.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else resident_mib("VmHWM") / 1024
    return statistics.median(seconds), peak


def matmul(device: torch.device, dtype: torch.dtype) -> float:
    """Returns the operations per second of a product of two large square matrices."""
    size = 8192 if device.type == "cuda" else 512
    left, right = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / timed(lambda: left @ right, device)[0]


def dense_logits(denoiser: Denoiser, ids: Tensor) -> Tensor:  # (B, T) -> (B, T, V)
    return functional.linear(denoiser(ids), denoiser.network.lm_head.weight)


@torch.no_grad()
def dense_rollout_step(denoiser: Denoiser, ids: Tensor) -> Tensor:
    """Predicts every token by Gumbel noise on all logits, with their confidence, as samplers commonly do."""
    logits = dense_logits(denoiser, ids).float()
    noise = -torch.log(-torch.log(torch.rand_like(logits).clamp(1e-20, 1 - 1e-7)))
    tokens = (logits + noise).argmax(-1)
    return logits.softmax(-1).gather(-1, tokens[..., None])


def dense_update(denoiser: Denoiser, optimizer: torch.optim.Optimizer, ids: Tensor, tokens: Tensor) -> None:
    """A step on the log-probabilities of all tokens, hidden or not."""
    optimizer.zero_grad()
    scores = dense_logits(denoiser, ids).float().log_softmax(-1).gather(-1, tokens[..., None])
    scores.mean(1).square().mean().backward()
    optimizer.step()


def measure(name: str, case: Case, folder: Path, device: torch.device) -> Measured:
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    peak = matmul(device, dtype)
    denoiser = random_denoiser(case.values, folder, device, dtype)
    shape, b = shapes.shape_of_config(case.values)[1], dtype.itemsize
    length, tokens = case.sampler.length, case.prompt + case.sampler.length
    steps = len(work.hidden_rows(case.sampler))

    letter = denoiser.encode("a")[-1]
    requests = [Request([letter] * case.prompt, key) for key in range(case.batch)]
    engine = Exact(denoiser, ExactConfig())

    def roll_out() -> None:
        for _ in engine.generate(requests, case.sampler, case.batch):
            pass

    rollout, rollout_peak = timed(roll_out, device)
    canvas = torch.full((case.batch, tokens), letter, device=device)
    dense_rollout = steps * timed(lambda: dense_rollout_step(denoiser, canvas), device)[0]

    adapter = AdapterConfig(rank=case.rank, alpha=float(case.rank))
    denoiser.attach_adapter(adapter, seed=0)
    config = DistillConfig(objective=OBJECTIVE, inner_steps=1)
    config = config.model_copy(update={"compute": ComputeConfig(micro_batch_tokens=2 * case.group * tokens)})
    rewarded = round_of(denoiser.encode("abcdefgh"), 1, case.group, case.prompt, length)
    distill, distill_peak = timed(lambda: train(denoiser, rewarded, config, case.group), device)
    ids = torch.full((2 * case.group, tokens), letter, device=device)  # the two views
    optimizer = torch.optim.AdamW([parameter for _, parameter in denoiser.trainable()], 1e-6)
    dense_distill = timed(lambda: dense_update(denoiser, optimizer, ids, ids), device)[0]

    added = shape.adapter(adapter)
    epoch = work.epoch(shape, config, case.group, tokens, length, added)
    sampled = work.completion(shape, case.prompt, case.sampler) * case.batch
    sizes = (case.group, case.group, case.prompt, length, b)
    planned = footprint.of_sampling(shape, case.batch, case.prompt, case.sampler, b, is_gpu=device.type == "cuda")
    return Measured(
        device=torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or "CPU",
        model=name,
        matmul_tflops=peak / 1e12,
        rollout_tokens_per_s=case.batch * length / rollout,
        rollout_share=sampled.total / rollout / peak,
        rollout_speedup=dense_rollout / rollout,
        rollout_peak_gib=rollout_peak,
        distill_seconds=distill,
        distill_share=epoch.total / distill / peak,
        distill_speedup=dense_distill / distill,
        distill_peak_gib=distill_peak,
        planned_rollout_gib=planned.total / footprint.GIB,
        planned_distill_gib=footprint.of_epoch(shape, config, *sizes, adapter).total / footprint.GIB,
    )


def report(found: Measured) -> None:
    print(f"\n{found.model} on {found.device}, whose large products reach {found.matmul_tflops:.3g} TFLOP/s")
    print("| | | of that | against dense | peak | planned |\n|---|---|---|---|---|---|")
    print(
        f"| rollout | {found.rollout_tokens_per_s:.1f} tokens/s | {found.rollout_share:.1%} | "
        f"{found.rollout_speedup:.2f} x | {found.rollout_peak_gib:.2f} GiB | {found.planned_rollout_gib:.2f} GiB |"
    )
    print(
        f"| update | {found.distill_seconds:.3g} s | {found.distill_share:.1%} | {found.distill_speedup:.2f} x | "
        f"{found.distill_peak_gib:.2f} GiB | {found.planned_distill_gib:.2f} GiB |"
    )
    print(json.dumps(asdict(found)))


@pytest.mark.parametrize("name", SMALL)
def test_the_measurement_works(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If it fails, minutes of a rented GPU end in a stack trace."""
    torch.set_num_threads(1)
    report(measure(name, SMALL[name], tmp_path, torch.device("cpu")))
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line["model"] == name and all(value > 0 for key, value in line.items() if key not in ("device", "model"))


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_cost_of_a_published_shape(name: str, tmp_path: Path) -> None:
    """If it fails, the card is too small. What it prints replaces the assumptions of tasks/gdsd/planning/work.py."""
    report(measure(name, CASES[name], tmp_path, torch.device("cuda")))
