"""How far the engines are from the work that they cannot spare: a block by its parts, beside the bare products.

make bench            or            OMP_NUM_THREADS=1 python -m pytest -m slow -s tests/bench/test_engine_limits.py

The network, vocabulary and sizes of test_engines.py at temperature 1. A block's seconds are told apart by what is
called: attention, the rest of the body, the head's product, the draw, and the rest. Beside them stands what is needed,
measured in turns with the block, so that a busy machine slows both:

* forward passes: the stock network without its head on the whole canvas, once for each step;
* bare: the products of the dual cache's places, by each map of each layer, their attention, and the head's product;
* the head's product: for the hidden places of each step.

Ratios are of the least seconds of several turns. With one thread seconds are of the processor; run it so beside other
work. The exact engine takes 2 steps for its block instead of 16, since its steps cost about the same.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from typing import ParamSpec, TypeVar

import pytest
import torch
from torch.nn import functional

from tasks.gdsd.denoiser.head import Head
from tasks.gdsd.rollout.engines import cached, unmasking
from tests.bench.harness import clock, in_turns, show
from tests.bench.test_engines import LARGE, TINY_SIZE, Bench, Size, counter

P, R = ParamSpec("P"), TypeVar("R")


class Parts:
    """Seconds of a block's parts, each without the parts inside it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside = ["rest"]
        self._since = clock()

    def _turn_to(self, inside: list[str]) -> None:
        now = clock()
        self.seconds[self._inside[-1]] += now - self._since
        self._inside, self._since = inside, now

    def of(self, name: str, function: Callable[P, R]) -> Callable[P, R]:
        """Returns the function, whose time counts as a part."""

        @wraps(function)
        def timed(*args: P.args, **options: P.kwargs) -> R:
            self._turn_to([*self._inside, name])
            try:
                return function(*args, **options)
            finally:
                self._turn_to(self._inside[:-1])

        return timed

    @contextmanager
    def told_apart(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for owner, name, part in (
                (functional, "scaled_dot_product_attention", "attention"),
                (unmasking, "states_at", "body"),
                (cached, "states_at", "body"),
                (Head, "logits", "head"),
                (unmasking, "choose", "draw"),
            ):
                patch.setattr(owner, name, self.of(part, getattr(owner, name)))
            self._since = clock()
            yield
            self._turn_to(self._inside)


def hidden_rows(bench: Bench) -> list[int]:
    """Returns how many places of a sequence are hidden in each step."""
    shares = bench.settings.shares()
    return [sum(shares[step:]) for step in range(len(shares))]


@torch.no_grad()
def forward_passes(bench: Bench) -> None:
    ids = bench.canvas()[0]
    for _ in hidden_rows(bench):
        bench.denoiser.network.model(input_ids=ids, use_cache=False)


@torch.no_grad()
def head_products(bench: Bench) -> None:
    weight = bench.denoiser.network.lm_head.weight
    for rows in hidden_rows(bench):
        functional.linear(torch.ones(bench.size.batch * rows, bench.size.width), weight)


@torch.no_grad()
def bare_dual_cache(bench: Bench) -> None:
    """The products and the attention of a block of the dual cache, on numbers of no meaning."""
    size, layers = bench.size, bench.denoiser.network.model.layers
    whole = size.prompt + size.length
    for step, hidden in enumerate(hidden_rows(bench)):
        part = size.block if step else whole
        x, inner = torch.ones(size.batch, part, size.width), torch.ones(size.batch, part, size.inner)
        shape = (size.batch, size.heads, whole, size.width // size.heads)
        keys = torch.ones(shape)
        for number, layer in enumerate(layers):
            asking = hidden if number == len(layers) - 1 else part
            for weight, rows in (
                (layer.self_attn.q_proj, x[:, :asking]),
                (layer.self_attn.k_proj, x),
                (layer.self_attn.v_proj, x),
                (layer.self_attn.o_proj, x[:, :asking]),
                (layer.mlp.gate_proj, x[:, :asking]),
                (layer.mlp.up_proj, x[:, :asking]),
                (layer.mlp.down_proj, inner[:, :asking]),
            ):
                weight(rows)
            functional.scaled_dot_product_attention(keys[:, :, :asking], keys, keys)
    head_products(bench)


def rate() -> float:
    """Returns the operations of a large product in a second, at best."""
    left, right = torch.ones(2048, 2048), torch.ones(2048, 2048)
    return 2 * 2048**3 / min(in_turns({"product": lambda: left @ right}, 5)["product"])


def measure(size: Size, engine: str, needed: dict[str, Callable[[Bench], None]], turns: int = 2) -> dict[str, float]:
    """Returns the seconds of a block by its parts, and of what it needs, each the least of several turns."""
    bench = Bench(size, 1.0)
    block, rounds = bench.engine_block(engine), list[dict[str, float]]()

    def by_parts() -> None:
        parts = Parts()
        with parts.told_apart():
            block()
        rounds.append(parts.seconds)

    def of(work: Callable[[Bench], None]) -> Callable[[], None]:
        return lambda: work(bench)

    taken = in_turns({"block": by_parts} | {name: of(work) for name, work in needed.items()}, turns, warm_up=False)
    with counter() as counted:
        block()
    fastest = min(rounds, key=lambda parts: sum(parts.values()))
    found = {name: min(seconds) for name, seconds in taken.items()}
    return found | dict(fastest) | {"GFLOP": counted.get_total_flops() / 1e9}


def told(name: str, found: dict[str, float]) -> dict[str, float]:
    """Prints a block's seconds, also as a share of what the machine's large products take."""
    peak = rate()
    row = found | {"share of the rate": found["GFLOP"] * 1e9 / found["block"] / peak}
    show(f"{LARGE} or {TINY_SIZE}, {torch.get_num_threads()} threads, {peak / 1e9:.0f} GFLOP/s", {name: row})
    return row


@pytest.mark.slow
def test_the_exact_engine_against_the_forward_passes_that_it_needs() -> None:
    """If it fails, the exact engine's own work has grown beside that of its network."""
    needed = {"forward passes": forward_passes, "head's product": head_products}
    exact = told("exact, 2 steps", measure(replace(LARGE, steps=2), "exact", needed))
    assert exact["body"] + exact["attention"] <= 1.15 * exact["forward passes"]
    assert exact["head"] + exact["draw"] <= 1.4 * exact["head's product"]


@pytest.mark.slow
def test_the_dual_cache_against_the_products_that_it_needs() -> None:
    """If it fails, the dual cache's own work has grown beside that of its products."""
    dual = told("dual_cache", measure(LARGE, "dual_cache", {"bare": bare_dual_cache, "head's product": head_products}))
    assert dual["head"] + dual["draw"] <= 1.4 * dual["head's product"]
    assert dual["block"] <= 1.4 * dual["bare"]


@pytest.mark.slow
def test_the_parts_of_a_block_at_the_tiny_size() -> None:
    """If it fails, the default experiment spends more on sampling than forward passes of its network take."""
    tiny = told("exact, tiny", measure(TINY_SIZE, "exact", {"forward passes": forward_passes}, turns=15))
    assert tiny["block"] <= 1.15 * tiny["forward passes"]
