"""Token readouts against the dense computation at the size of LLaDA's vocabulary: peak memory and time.

make bench            or            python -m pytest -m slow -s tests/bench/test_readout.py

Forward and backward of 4 x 256 tokens in float32 on all cores. Memory is what one step needs above the weights, the
inputs and the warmed-up libraries, in a process of its own (Linux: the kernel's high-water mark of resident memory is
reset and read). Time is the median of several steps, which take turns with those of the dense computation, so that
whatever else the machine does slows both.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tasks.gdsd.denoiser.head import Head
from tasks.gdsd.distill.token_scores import centred, centred_topk, log_prob
from tests.bench.resident import peak_mib

VOCABULARY, WIDTH, ROWS, CANDIDATES = 126_464, 1024, 4 * 256, 64
REPETITIONS = 5

Score = Callable[[Tensor, Head, Tensor, Tensor], Tensor]  # (hidden, head, tokens, candidates) -> (R,)


def dense_log_prob(hidden: Tensor, head: Head, tokens: Tensor, candidates: Tensor) -> Tensor:
    logits = functional.linear(hidden, head.weight)  # (R, V)
    return logits.log_softmax(1).gather(1, tokens[:, None]).squeeze(1)


def dense_centred(hidden: Tensor, head: Head, tokens: Tensor, candidates: Tensor) -> Tensor:
    logits = functional.linear(hidden, head.weight)
    return logits.gather(1, tokens[:, None]).squeeze(1) - logits.mean(1)


def dense_centred_topk(hidden: Tensor, head: Head, tokens: Tensor, candidates: Tensor) -> Tensor:
    logits = functional.linear(hidden, head.weight)
    return logits.gather(1, tokens[:, None]).squeeze(1) - logits.gather(1, candidates).mean(1)


def without_candidates(score: Callable[[Tensor, Head, Tensor], Tensor]) -> Score:
    return lambda hidden, head, tokens, candidates: score(hidden, head, tokens)


@dataclass(frozen=True)
class Comparison:
    readout: Score
    dense: Score
    trained: bool = False  # the head gets a gradient too
    new_head: bool = False  # each step makes its own Head, so none has its mean row yet


COMPARISONS = {
    "log_prob": Comparison(without_candidates(log_prob), dense_log_prob),
    "centred": Comparison(without_candidates(centred), dense_centred),
    "centred, new Head": Comparison(without_candidates(centred), dense_centred, new_head=True),
    "centred_topk": Comparison(centred_topk, dense_centred_topk),
    "log_prob, trained head": Comparison(without_candidates(log_prob), dense_log_prob, trained=True),
}


@dataclass(frozen=True)
class Measured:
    peak_mib: float
    dense_peak_mib: float
    milliseconds: float
    dense_milliseconds: float
    memory_ratio: float
    time_ratio: float


class Bench:
    """The tensors of one comparison, in a process that has done nothing else."""

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        source = torch.Generator().manual_seed(0)
        weight = torch.randn(VOCABULARY, WIDTH, generator=source).mul_(WIDTH**-0.5)
        self.head = Head(weight.requires_grad_(comparison.trained))
        self.head.mean_row(weight.dtype)  # kept by a frozen head, as from its first step on
        self.hidden = torch.randn(ROWS, WIDTH, generator=source).requires_grad_()
        self.tokens = torch.randint(VOCABULARY, (ROWS,), generator=source)
        self.candidates = torch.randint(VOCABULARY, (ROWS, CANDIDATES), generator=source)

    def step(self, score: Score) -> None:
        self.hidden.grad = self.head.weight.grad = None
        head = Head(self.head.weight) if self.comparison.new_head else self.head
        score(self.hidden, head, self.tokens, self.candidates).sum().backward()

    def peak_mib(self, score: Score) -> float:
        """Returns the memory that the first step needs."""
        # Threads, kernels and their scratch memory come into being with a small vocabulary.
        few = Head(self.head.weight[:256].detach().clone().requires_grad_(self.comparison.trained))

        def warm_up() -> None:
            score(self.hidden, few, self.tokens % 256, self.candidates % 256).sum().backward()
            self.hidden.grad = few.weight.grad = None

        return peak_mib(warm_up, lambda: self.step(score))

    def milliseconds(self) -> dict[str, list[float]]:
        """Returns the times of both computations' steps, in turns, after one of each."""
        times: dict[str, list[float]] = {"readout": [], "dense": []}
        for _ in range(1 + REPETITIONS):
            for name, score in (("readout", self.comparison.readout), ("dense", self.comparison.dense)):
                began = time.perf_counter()
                self.step(score)
                times[name].append(1000 * (time.perf_counter() - began))
        return {name: several[1:] for name, several in times.items()}


def apart(name: str, measurement: str) -> str:
    """Takes one measurement of a comparison in a new process; see the end of this file."""
    command = [sys.executable, "-m", "tests.bench.test_readout", name, measurement]
    root = Path(__file__).resolve().parents[2]
    return subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=True).stdout


def measured(name: str) -> Measured:
    peak, dense_peak = float(apart(name, "readout peak")), float(apart(name, "dense peak"))
    times = json.loads(apart(name, "times"))
    ratios = [fast / dense for fast, dense in zip(times["readout"], times["dense"], strict=True)]
    return Measured(
        peak_mib=peak,
        dense_peak_mib=dense_peak,
        milliseconds=statistics.median(times["readout"]),
        dense_milliseconds=statistics.median(times["dense"]),
        memory_ratio=peak / dense_peak,
        time_ratio=statistics.median(ratios),
    )


@pytest.mark.slow
def test_readouts_cost_a_fraction_of_the_dense_computation() -> None:
    """If it fails, scoring needs the memory of the logits again, or pays for their absence with time."""
    results = {name: measured(name) for name in COMPARISONS}
    print(f"\nV {VOCABULARY}, D {WIDTH}, R {ROWS}, k {CANDIDATES}, float32, {torch.get_num_threads()} threads")
    print("| readout | peak memory | dense | ratio | time | dense | ratio |\n|---|---|---|---|---|---|---|")
    for name, of in results.items():
        print(
            f"| {name} | {of.peak_mib:.1f} MiB | {of.dense_peak_mib:.1f} MiB | {of.memory_ratio:.4f} "
            f"| {of.milliseconds:.1f} ms | {of.dense_milliseconds:.1f} ms | {of.time_ratio:.4f} |"
        )
    print(json.dumps({name: asdict(result) for name, result in results.items()}))
    assert results["centred"].memory_ratio <= 1 / 50 and results["centred"].time_ratio <= 1 / 100
    assert results["log_prob"].memory_ratio <= 1 / 4 and results["log_prob"].time_ratio <= 1.2


if __name__ == "__main__":
    chosen, measurement = COMPARISONS[sys.argv[1]], sys.argv[2]
    bench = Bench(chosen)
    if measurement == "times":
        print(json.dumps(bench.milliseconds()))
    else:
        print(bench.peak_mib(chosen.readout if measurement == "readout peak" else chosen.dense))
