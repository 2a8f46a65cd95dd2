"""Engines against a plain sampler at the size of LLaDA's vocabulary: tokens per second, memory and operations.

make bench            or            python -m pytest -m slow -s tests/bench/test_engines.py

A Llama with 25M parameters in its blocks and 126,464 tokens, prompt 200, length 256 in blocks of 32 with 16 steps each,
batch 6, float32 on all cores. Every block costs the same, so one is unmasked; every step of the plain sampler costs the
same, so two are. The plain sampler is what LLaDA's does (ML-GSAI/LLaDA at b7e6c35, generate.py): logits of all tokens
of the canvas, Gumbel noise and a softmax in float64, one top-k per sequence. The plain dual cache is what Fast-dLLM's
does (NVlabs/Fast-dLLM at 24cc59e, llada/generate.py): the same in a block's first step, and in the others for all
tokens of the block, hidden or not. Both read by this project's network, and the second by its cache.

Everything is measured in a process of its own; memory is the kernel's high-water mark above the weights and the
warmed-up libraries. Operations are those of products, which torch counts; of attention it counts none on the CPU, so
the counter is told what its kernel takes. Norms, activations, rotary angles, softmaxes and the draw of tokens are not
counted.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tasks.gdsd.config.sampler import DualCacheConfig, EngineConfig, ExactConfig, PrefixCacheConfig, SamplerConfig
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.denoiser.partial import KeyValues, states_at
from tasks.gdsd.planning.shapes import Shape
from tasks.gdsd.rollout import engines
from tasks.gdsd.rollout.engines.base import Request
from tasks.gdsd.rollout.engines.unmasking import Unmasking, make_rules
from tests.bench import models
from tests.bench.harness import apart, in_turns, peak_mib, show

PLAIN_STEPS = 2


@dataclass(frozen=True)
class Size:
    """A model and what is sampled from it."""

    vocabulary: int = 126_464
    width: int = 512
    inner: int = 1408
    layers: int = 8
    heads: int = 8
    prompt: int = 200
    length: int = 256
    block: int = 32
    steps: int = 16  # of a block
    batch: int = 6

    def build(self) -> Denoiser:
        torch.manual_seed(0)
        head_width = self.width // self.heads
        return models.build(
            Shape(self.vocabulary, self.width, self.inner, self.layers, self.heads, self.heads, head_width)
        )

    def sampler(self, temperature: float) -> SamplerConfig:
        return SamplerConfig(
            length=self.length,
            block_length=self.block,
            steps_per_block=self.steps,
            temperature=temperature,
            order="confidence",
            top_p=1.0,
        )

    def requests(self, denoiser: Denoiser) -> list[Request]:
        return [Request(denoiser.encode("1") * self.prompt, key) for key in range(self.batch)]


LARGE = Size()
# configs/tiny_sudoku.yaml: its model, prompts of 17 tokens, answers of 16 in 5 steps, 256 at a time.
TINY_SIZE = Size(
    vocabulary=51, width=64, inner=128, layers=3, heads=4, prompt=17, length=16, block=16, steps=5, batch=256
)
SIZES = {"large": LARGE, "tiny": TINY_SIZE}
ENGINES: dict[str, EngineConfig] = {
    "exact": ExactConfig(),
    "prefix_cache": PrefixCacheConfig(),
    "dual_cache": DualCacheConfig(),
}


@torch.no_grad()
def plain_step(denoiser: Denoiser, ids: Tensor, block: slice, share: int, temperature: float) -> None:
    """One step as published samplers have it: everything for every token of the canvas."""
    logits = denoiser.network(input_ids=ids).logits  # (B, T, V)
    plain_choice(ids, logits, denoiser.mask_id, block.stop, share, temperature)


def plain_choice(
    ids: Tensor,  # (B, T): a view of the canvas, which is changed
    logits: Tensor,  # (B, T, V)
    mask_id: int,
    stop: int,
    share: int,
    temperature: float,
) -> None:
    """Draws a token for each place by Gumbel noise in float64, and keeps the surest that were hidden before a stop."""
    noisy = logits
    if temperature > 0:
        noisy = logits.to(torch.float64)
        noise = torch.rand_like(noisy)
        noisy = noisy.exp() / (-torch.log(noise)) ** temperature
    tokens = noisy.argmax(-1)
    confidence = logits.to(torch.float64).softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)  # (B, T)
    confidence[:, stop:] = -torch.inf
    confidence = confidence.where(ids == mask_id, -torch.inf)
    for row in range(len(ids)):
        kept = confidence[row].topk(share).indices
        ids[row, kept] = tokens[row, kept]


class Bench:
    """One model, and the work to be measured on it."""

    def __init__(self, size: Size, temperature: float):
        self.size, self.temperature = size, temperature
        self.denoiser = size.build()
        self.settings = size.sampler(temperature)

    def engine_block(self, name: str) -> Callable[[], Unmasking]:
        """Returns a function that unmasks the first block."""

        def work() -> Unmasking:
            engine = engines.make(ENGINES[name], self.denoiser)
            assert isinstance(engine, Unmasking)
            requests = self.size.requests(self.denoiser)
            canvas = engine._canvas(requests, list(range(len(requests))), self.settings)
            canvas.block = slice(canvas.start, canvas.start + self.size.block)
            with torch.no_grad():
                engine.unmask_block(canvas, self.settings, make_rules(self.settings, self.denoiser), 0)
            return engine

        return work

    def canvas(self) -> tuple[Tensor, slice]:
        """Returns prompts and hidden completions, (B, T), and the first block."""
        prompt = torch.full((self.size.batch, self.size.prompt), self.denoiser.encode("1")[0])
        hidden = torch.full((self.size.batch, self.size.length), self.denoiser.mask_id)
        return torch.cat([prompt, hidden], dim=1), slice(self.size.prompt, self.size.prompt + self.size.block)

    def plain_steps(self, steps: int) -> Callable[[], None]:
        """Returns a function that takes the first steps by the plain sampler."""

        def work() -> None:
            ids, block = self.canvas()
            for share in self.settings.shares()[:steps]:
                plain_step(self.denoiser, ids, block, share, self.temperature)

        return work

    @torch.no_grad()
    def plain_dual_cache(self) -> None:
        """Unmasks the first block by the plain dual cache."""
        (ids, block), kept, head = self.canvas(), KeyValues(), self.denoiser.network.lm_head
        for call, share in enumerate(self.settings.shares()):
            part = slice(0, ids.shape[1]) if call == 0 else block
            rows = torch.arange(part.start, part.stop).expand(len(ids), -1)
            logits = head(states_at(self.denoiser, ids, None, rows, part, kept))
            stop = block.stop - part.start
            plain_choice(ids[:, part], logits, self.denoiser.mask_id, stop, share, self.temperature)


def attention_flops(query: torch.Size, key: torch.Size, *_: object, **__: object) -> int:  # (B, H, Q, W), (B, H, T, W)
    """Counts scores and their sums of values, 2 Q T W each for every head."""
    batch, heads, rows, width = query
    return 4 * batch * heads * rows * width * key[2]


def counter() -> FlopCounterMode:
    """Returns a counter that knows attention on the CPU, which torch's own leaves out."""
    on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return FlopCounterMode(display=False, custom_mapping={on_cpu: attention_flops})


def body_flops(bench: Bench, name: str) -> int:
    """Counts the operations of a block without the head's, which is no part of the body."""
    head = bench.denoiser.head()
    rows = torch.zeros(1, bench.size.width)
    with counter() as of_row:
        head.logits(rows)
    with counter() as of_block:
        engine = bench.engine_block(name)()
    return int(of_block.get_total_flops() - engine.work.rows * of_row.get_total_flops())


def flops() -> dict[str, int]:
    bench = Bench(LARGE, 1.0)
    return {name: body_flops(bench, name) for name in ENGINES}


def speeds(size: str, temperature: float) -> dict[str, float]:
    """Returns tokens per second of each engine, at the tiny size of the exact one, and of the plain sampler."""
    small, bench = Bench(TINY_SIZE, temperature), Bench(SIZES[size], temperature)
    is_tiny = bench.size is TINY_SIZE
    steps = bench.size.steps if is_tiny else PLAIN_STEPS
    works: dict[str, Callable[[], object]] = {
        name: bench.engine_block(name) for name in (["exact"] if is_tiny else ENGINES)
    }
    for name in ENGINES:  # the libraries come up
        small.engine_block(name)()
    small.plain_steps(1)()
    if not is_tiny:
        works["plain dual cache"] = bench.plain_dual_cache
    taken = in_turns(works | {"plain": bench.plain_steps(steps)}, 9 if is_tiny else 1, warm_up=False)
    taken["plain"] = [seconds / steps * bench.size.steps for seconds in taken["plain"]]
    return {name: bench.size.batch * bench.size.block / min(taken[name]) for name in taken}


def peak(temperature: float, name: str) -> float:
    def work(bench: Bench) -> Callable[[], object]:
        peers = {"plain": bench.plain_steps(1), "plain dual cache": bench.plain_dual_cache}
        return peers[name] if name in peers else bench.engine_block(name)

    return peak_mib(work(Bench(TINY_SIZE, temperature)), work(Bench(LARGE, temperature)))


@pytest.mark.slow
def test_engines_against_the_plain_sampler_at_a_large_vocabulary() -> None:
    """If it fails, rollouts cost several times what they need to."""
    rows: dict[str, dict[str, float]] = {}
    operations = apart(flops)
    for temperature in (1.0, 0.0):
        speed = apart(speeds, "large", temperature)
        peaks = {name: apart(peak, temperature, name) for name in speed}
        for name in speed:
            rows[f"{name}, T = {temperature:g}"] = {
                "tokens/s": speed[name],
                "against plain": speed[name] / speed["plain"],
                "peak MiB": peaks[name],
                "share of plain's peak": peaks[name] / peaks["plain"],
                "body TFLOP a block": operations.get(name, math.nan) / 1e12,
            }
    show(f"{LARGE}, float32, {torch.get_num_threads()} threads", rows)
    assert rows["exact, T = 1"]["against plain"] >= 6 and rows["exact, T = 0"]["against plain"] >= 4
    assert rows["exact, T = 1"]["share of plain's peak"] <= 1 / 8
    assert operations["exact"] >= 5 * operations["dual_cache"]
    assert rows["dual_cache, T = 1"]["against plain"] >= 25


@pytest.mark.slow
def test_the_exact_engine_at_the_tiny_size() -> None:
    """If it fails, the default experiment spends more on sampling than it has to."""
    rows = {f"T = {temperature:g}": apart(speeds, "tiny", temperature) for temperature in (1.0, 0.0)}
    for row in rows.values():
        row["ratio"] = row["exact"] / row["plain"]
    show(f"{TINY_SIZE}, float32, {torch.get_num_threads()} threads; tokens per second", rows)
    assert rows["T = 1"]["ratio"] >= 1.5
