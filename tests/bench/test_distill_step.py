"""A distillation step against what it cannot do without, and against the dense step: time, peak memory, a profile.

make bench            or            python -m pytest -m slow -s tests/bench/test_distill_step.py

The model of test_engines.py, and two of its completions: 256 tokens after 200 of prompt, in a pair of views, an adapter
of rank 16, float32. An update of more completions does the same several times. Times are seconds of a processor, with
one thread: what else the machine does hardly counts. The least of several turns counts.

The bare body is the stock network without adapter and head, forward and backward through its frozen weights, on the
same tokens. The bare head is two products for each hidden token, its logits and what goes back from them. `log_prob`
cannot do without them, and `centred` needs none.

The dense step is what published code commonly does: the old policy's scores and the new one's are taken from the logits
of every token of prompt and completion, in two forward passes. It and ours make one update of GDSD with the readout
`log_prob`, or with `centred`, which the dense step computes as a mean over all logits.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from tasks.gdsd.config.objective import GdsdConfig
from tasks.gdsd.config.policy import AdapterConfig
from tasks.gdsd.config.train import DistillConfig
from tasks.gdsd.distill.batch import collate
from tasks.gdsd.objectives import Scores, objective_loss
from tests.bench.harness import apart, in_turns, peak_mib, show
from tests.bench.models import round_of, train
from tests.bench.test_engines import LARGE, TINY_SIZE, Size

SIZE = replace(LARGE, batch=2)
TURNS, RANK = 3, 16
READOUTS = ("log_prob", "centred")


class Step:
    """A policy with an adapter, a rewarded group, and the ways to take an update on it."""

    def __init__(self, size: Size, readout: str):
        self.size, self.denoiser = size, size.build()
        self.denoiser.attach_adapter(AdapterConfig(rank=RANK), seed=0)
        objective = GdsdConfig.model_validate(
            {"readout": readout, "mask_source": "random", "reference_weight": 0, "trust_region": None}
        )
        self.config = DistillConfig(objective=objective, inner_steps=1, ema_decay=0)
        self.objective, self.group = objective, size.batch
        self.rewarded = round_of(self.denoiser.encode("abcdefgh"), 1, size.batch, size.prompt, size.length)

    def ours(self) -> None:
        train(self.denoiser, self.rewarded, self.config, self.group)

    def dense(self) -> None:
        batch = collate(self.rewarded, self.denoiser, self.objective, group_size=self.group, round_index=0, seed=0)
        assert batch is not None
        hidden = batch.views.hidden.flatten(0, 1)  # (C * B, L)
        tokens = batch.completions.repeat(len(batch.views.hidden), 1)
        prompts = batch.prompts.repeat(len(batch.views.hidden), 1)
        ids = torch.cat([prompts, tokens.masked_fill(hidden, self.denoiser.mask_id)], dim=1)

        def scores() -> Tensor:  # (C, B, L)
            logits = self.denoiser.network(input_ids=ids).logits[:, prompts.shape[1] :]  # of all tokens, then cut
            own = logits.gather(-1, tokens[..., None]).squeeze(-1)
            centre = logits.logsumexp(-1) if self.objective.readout == "log_prob" else logits.mean(-1)
            return ((own - centre) * hidden).view_as(batch.views.hidden)

        with torch.no_grad():
            old = scores()
        parameters = [parameter for _, parameter in self.denoiser.trainable()]
        optimizer = torch.optim.AdamW(parameters, 1e-6)
        loss, _ = objective_loss(
            Scores(
                theta=scores(),
                old=old,
                ref=None,
                theta_log_prob=None,
                ref_log_prob=None,
                read=batch.views.read,
                lengths=batch.views.counted.sum(1),
                judged=batch.judged,
                group_size=1,
            ),
            batch.advantages,
            self.objective,
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()


def bare(size: Size) -> Callable[[], None]:
    """Returns a function that goes through the body of a policy without an adapter, forward and backward."""
    body = size.build().requires_grad_(False).network.model
    ids = torch.full((2 * size.batch, size.prompt + size.length), 5)

    def work() -> None:
        states = body(inputs_embeds=body.embed_tokens(ids).requires_grad_(), use_cache=False).last_hidden_state
        states.backward(torch.ones_like(states))

    return work


def products(size: Size) -> Callable[[], None]:
    """Returns a function that makes the logits of all hidden tokens, and multiplies as many numbers by the head."""
    weight = size.build().head().weight.detach()
    hidden = torch.randn(size.batch * size.length, size.width)
    logits = torch.empty(len(hidden), size.vocabulary)

    def work() -> None:
        torch.mm(hidden, weight.T, out=logits)
        torch.mm(logits, weight)

    return work


def seconds() -> dict[str, float]:
    """Returns the seconds of an update by each readout, of the bare body and of the head's bare products."""
    torch.set_num_threads(1)
    for work in (*(Step(TINY_SIZE, readout).ours for readout in READOUTS), bare(TINY_SIZE)):  # the libraries come up
        work()
    works = {readout: Step(SIZE, readout).ours for readout in READOUTS}
    works |= {"bare body": bare(SIZE), "bare head": products(SIZE)}
    taken = in_turns(works, TURNS, warm_up=False)
    return {name: min(several) for name, several in taken.items()}


def peak(readout: str, name: str) -> tuple[float, float]:
    """Returns MiB above the weights, and seconds, of the first update of a process."""
    torch.set_num_threads(1)
    small, large = (getattr(Step(size, readout), name) for size in (TINY_SIZE, SIZE))
    taken: list[float] = []
    return peak_mib(small, lambda: taken.extend(in_turns({name: large}, 1, False, time.process_time)[name])), taken[0]


def shares(readout: str) -> dict[str, float]:
    """Returns in which part of the computation an update spends its time; the shapes of products tell."""
    torch.set_num_threads(1)
    Step(TINY_SIZE, readout).ours()
    step = Step(SIZE, readout)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
        step.ours()
    parts: Counter[str] = Counter()
    for event in profiled.key_averages(group_by_input_shape=True):
        parts[_part(event.key, event.input_shapes)] += event.self_cpu_time_total
    return {name: count / parts.total() for name, count in parts.most_common()}


def _part(operation: str, shapes: list[list[int]]) -> str:
    sizes = {size for shape in shapes for size in shape}
    is_product = operation in ("aten::mm", "aten::addmm", "aten::addmm_")
    if sizes and max(sizes) > 4 * SIZE.inner:  # a block of the vocabulary, or all of it
        return "head, products" if is_product else "head, beside its products"
    if is_product:
        return "adapter, products" if RANK in sizes else "body, products"
    return "attention" if "attention" in operation else "the rest"


@pytest.mark.slow
def test_a_distillation_step_costs_little_more_than_the_body() -> None:
    """If it fails, training holds the logits of whole canvases again, or reads the old policy twice."""
    taken = apart(seconds)
    rows: dict[str, dict[str, float | str]] = {name: {"seconds": taken[name]} for name in ("bare body", "bare head")}
    needed = {"log_prob": taken["bare body"] + taken["bare head"], "centred": taken["bare body"]}
    for readout in READOUTS:
        (ours, of_ours), (dense, of_dense) = (apart(peak, readout, name) for name in ("ours", "dense"))
        rows[readout] = {
            "seconds": taken[readout],
            "times the bare body": taken[readout] / taken["bare body"],
            "times what it needs": taken[readout] / needed[readout],
            "seconds, dense": of_dense,
            "dense / ours": of_dense / of_ours,
            "MiB": ours,
            "MiB, dense": dense,
            "MiB, dense / ours": dense / ours,
            **apart(shares, readout),
        }
    show(f"{SIZE}, float32, one thread", rows)
    for readout in READOUTS:
        assert float(rows[readout]["times what it needs"]) <= 1.25
        assert float(rows[readout]["dense / ours"]) >= 2 and float(rows[readout]["MiB, dense / ours"]) >= 2
