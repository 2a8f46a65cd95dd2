"""Token readouts against the dense computation at the size of LLaDA's vocabulary: peak memory and time.

make bench            or            python -m pytest -m slow -s tests/bench/test_readout.py

Forward and backward of 4 x 256 tokens in float32 on all cores. Memory is what one step needs above the weights, the
inputs and the warmed-up libraries, in a process of its own (Linux: the kernel's high-water mark of resident memory is
reset and read). Time is the median of several steps, which take turns with those of the dense computation, so that
whatever else the machine does slows both.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import truediv

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tasks.gdsd.denoiser.head import Head
from tasks.gdsd.distill.token_scores import centred, centred_topk, log_prob
from tests.bench.harness import apart, in_turns, peak_mib, show

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

    def warm_up(self, score: Score) -> None:
        """Brings threads, kernels and their scratch memory into being, with a small vocabulary."""
        few = Head(self.head.weight[:256].detach().clone().requires_grad_(self.comparison.trained))
        score(self.hidden, few, self.tokens % 256, self.candidates % 256).sum().backward()
        self.hidden.grad = few.weight.grad = None


def peak(name: str, kind: str) -> float:
    """Returns the memory that the first step needs."""
    bench = Bench(COMPARISONS[name])
    score = bench.comparison.readout if kind == "readout" else bench.comparison.dense
    return peak_mib(lambda: bench.warm_up(score), lambda: bench.step(score))


def seconds(name: str) -> dict[str, list[float]]:
    bench = Bench(COMPARISONS[name])
    scores = {"readout": bench.comparison.readout, "dense": bench.comparison.dense}
    return in_turns({kind: partial(bench.step, score) for kind, score in scores.items()}, REPETITIONS)


@pytest.mark.slow
def test_readouts_cost_a_fraction_of_the_dense_computation() -> None:
    """If it fails, scoring needs the memory of the logits again, or pays for their absence with time."""
    rows = {}
    for name in COMPARISONS:
        taken, (own, theirs) = apart(seconds, name), (apart(peak, name, kind) for kind in ("readout", "dense"))
        rows[name] = {
            "peak MiB": own,
            "dense peak MiB": theirs,
            "share of memory": own / theirs,
            **{f"ms, {kind}": 1000 * statistics.median(several) for kind, several in taken.items()},
            "share of time": statistics.median(map(truediv, taken["readout"], taken["dense"])),
        }
    show(f"V {VOCABULARY}, D {WIDTH}, R {ROWS}, k {CANDIDATES}, float32, {torch.get_num_threads()} threads", rows)
    assert rows["centred"]["share of memory"] <= 1 / 50 and rows["centred"]["share of time"] <= 1 / 100
    assert rows["log_prob"]["share of memory"] <= 1 / 4 and rows["log_prob"]["share of time"] <= 1.2
