"""Rollouts and distillation at the sizes of LLaDA-8B and Dream-7B on a GPU, with random weights: no download.

python -m tests.gpu

Rollouts: tokens per second of the sampler in blocks of 32, in a few steps. Distillation: one update with an adapter of
rank 128 on a handful of completions. Each is compared with the plain dense step in the same run, which computes the
logits of every token: for rollouts with Gumbel noise on them, for distillation with a log-softmax and its gradient.
Shares are of what a product of two large matrices reaches on the same device, for operations as tasks.gdsd.planning
counts them. Times are medians after one warm-up. It prints one table, and one line of JSON.
"""

import json
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from tasks.gdsd.config.compute import ComputeConfig
from tasks.gdsd.config.objective import GdsdConfig
from tasks.gdsd.config.policy import AdapterConfig
from tasks.gdsd.config.sampler import ExactConfig, SamplerConfig
from tasks.gdsd.config.train import DistillConfig
from tasks.gdsd.denoiser import families, networks
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.denoiser.load import load_tokenizer
from tasks.gdsd.planning import memory as footprint
from tasks.gdsd.planning import shapes, work
from tasks.gdsd.rollout.engines.base import Request
from tasks.gdsd.rollout.engines.exact import Exact
from tests.bench.harness import in_turns, resident_mib, show
from tests.bench.models import round_of, train
from tests.gdsd.denoiser.test_families import DREAM_7B, LLADA_8B
from tests.gdsd.official import WRITERS

REPETITIONS = 3
OBJECTIVE = GdsdConfig(mask_source="random", weights="elbo", reference_weight=0, trust_region=None)
LONG = SamplerConfig(length=256, block_length=32, steps_per_block=2)


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
    return Denoiser(network, load_tokenizer(folder), family, files).eval()


def timed(work: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Returns median seconds, and the peak of memory in GiB: on the CPU of the whole process, ever."""
    is_gpu = device.type == "cuda"

    def whole() -> None:
        work()
        if is_gpu:
            torch.cuda.synchronize()

    whole()
    if is_gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds = in_turns({"work": whole}, REPETITIONS, warm_up=False)["work"]
    peak = torch.cuda.max_memory_allocated() / 2**30 if is_gpu else resident_mib("VmHWM") / 1024
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


def measure(case: Case, folder: Path, device: torch.device) -> dict[str, float | str]:
    """Returns one row of the table."""
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
    config = DistillConfig(objective=OBJECTIVE, inner_steps=1, ema_decay=0)
    config = config.model_copy(update={"compute": ComputeConfig(micro_batch_tokens=2 * case.group * tokens)})
    rewarded = round_of(denoiser.encode("abcdefgh"), 1, case.group, case.prompt, length)
    distill, distill_peak = timed(lambda: train(denoiser, rewarded, config, case.group), device)
    ids = torch.full((2 * case.group, tokens), letter, device=device)  # the two views
    optimizer = torch.optim.AdamW([parameter for _, parameter in denoiser.trainable()], 1e-6)
    dense_distill = timed(lambda: dense_update(denoiser, optimizer, ids, ids), device)[0]

    added = shape.adapter(adapter)
    epoch = work.epoch(shape, config, case.group, case.prompt, case.sampler, added)
    sampled = work.completion(shape, case.prompt, case.sampler) * case.batch
    sizes = (case.group, case.group, case.prompt, case.sampler, b)
    planned = footprint.of_sampling(shape, case.batch, case.prompt, case.sampler, b, is_gpu=device.type == "cuda")
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or "CPU",
        "TFLOP/s of a large product": peak / 1e12,
        "rollout tokens/s": case.batch * length / rollout,
        "share of the product": sampled.total / rollout / peak,
        "times dense": dense_rollout / rollout,
        "rollout GiB": rollout_peak,
        "planned rollout GiB": planned.total / footprint.GIB,
        "update seconds": distill,
        "update, share of the product": epoch.total / distill / peak,
        "update, times dense": dense_distill / distill,
        "update GiB": distill_peak,
        "planned update GiB": footprint.of_epoch(shape, config, *sizes, adapter).total / footprint.GIB,
    }


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("there is no GPU here")
    rows = {}
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = measure(case, Path(folder), torch.device("cuda"))
        torch.cuda.empty_cache()
    show("Published shapes with random weights", rows)


if __name__ == "__main__":
    main()
