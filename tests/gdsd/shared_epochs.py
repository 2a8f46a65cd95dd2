"""Epochs that several processes share, for tests: cases, and what each process does with them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils.hooks import RemovableHandle

from tasks.gdsd.config.policy import AdapterConfig
from tasks.gdsd.config.train import DistillConfig
from tasks.gdsd.denoiser import checkpoint
from tasks.gdsd.denoiser.checkpoint import PolicyState
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.denoiser.exact_sum import adapted
from tasks.gdsd.distill import forward, processes
from tasks.gdsd.distill.epoch import Epoch
from tasks.gdsd.distill.epoch import _train as train_here
from tasks.gdsd.distill.forward import hidden_states
from tasks.gdsd.distill.masking import Views
from tasks.gdsd.errors import GdsdError
from tasks.gdsd.records import EpochStats
from tests.gdsd.conftest import build
from tests.gdsd.epochs import CONFIG, GROUP, ended, rewarded, run

SHORTAGE = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes. Error code 12"


@dataclass(frozen=True)
class Case:
    """An epoch, and what goes wrong in it in the last process."""

    config: DistillConfig = CONFIG
    groups: tuple[int, ...] = (0, 1, 2, 3, 4)
    adapter: bool = False
    goes_on: bool = False  # whether the adapter at the start is part of the base
    broken: str | None = None
    epochs: int = 1
    evidence: Path = Path("/dev/null/evidence")


@dataclass(frozen=True)
class Outcome:
    """What a process has after an epoch."""

    weights: dict[str, Tensor]
    moments: dict[str, Tensor]
    stats: EpochStats | None
    error: GdsdError | None
    held: int = 0  # numbers in the weights that the process had during the last micro-batch
    states: Tensor | None = None  # what the trained denoiser makes of a few tokens


def assert_close(found: Outcome, expected: Outcome) -> None:
    """Checks that an epoch went another way to the same policy, up to rounding."""
    assert found.stats is not None and expected.stats is not None, found.error
    assert found.weights.keys() == expected.weights.keys()
    assert max(float((found.weights[name] - weight).abs().max()) for name, weight in expected.weights.items()) < 1e-5
    assert found.moments.keys() == expected.moments.keys()
    for name, moment in expected.moments.items():
        torch.testing.assert_close(found.moments[name], moment, rtol=1e-3, atol=1e-5)
    for step, wanted in zip(found.stats.steps, expected.stats.steps, strict=True):
        reported = wanted.model_dump(exclude_none=True)
        assert step.model_dump(exclude_none=True) == pytest.approx(reported, rel=1e-3, abs=1e-5)


def start_of(case: Case) -> PolicyState:
    denoiser = build()
    if case.adapter:
        denoiser.attach_adapter(AdapterConfig(rank=4, alpha=8.0), 0)
        source = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for _, parameter in denoiser.trainable():  # away from the base, so that its scores are others
                parameter += 0.1 * torch.randn(parameter.shape, generator=source)
        for layer in adapted(denoiser.network).values() if case.goes_on else ():
            layer.began = layer.factors()[0].detach().clone(), layer.factors()[1].detach().clone()
    return checkpoint.base_state(denoiser)


def do(case: Case, last: bool = True) -> Outcome:
    """Runs the epoch of a case in this process."""
    start = start_of(case)
    base = None if case.adapter else checkpoint.base_state(build(seed=1))
    groups = sorted(case.groups)
    table = ended(rewarded(start.denoiser, groups), start.denoiser.end_id)
    table = table.take([GROUP * groups.index(group) + sample for group in case.groups for sample in range(GROUP)])
    held: list[int] = []
    with breaking(case.broken if last else None, held):
        state = start
        try:
            for index in range(case.epochs):
                if index and processes.place()[1] > 1:  # as if they had been saved by the first and read by all
                    kept: list[object] = [state.optimizer]
                    torch.distributed.broadcast_object_list(kept, src=0)
                    state = PolicyState(state.denoiser, state.record, cast(dict[str, Tensor], kept[0]))
                state, stats = run(state, table, case.config, base, round_index=index, evidence=case.evidence)
        except GdsdError as error:
            return Outcome({}, {}, None, error)
    weights = {name: parameter.detach() for name, parameter in state.denoiser.named_parameters()}
    with torch.no_grad():
        states = state.denoiser(torch.tensor([[3, 4, 5, 6]]))
    return Outcome(weights, state.optimizer, stats, None, held[-1] if held else 0, states)


@contextmanager
def breaking(what: str | None, held: list[int]) -> Iterator[None]:
    """Breaks the n-th micro-batch of an epoch, counted from 0.

    `gradient n` makes its gradient infinite. `forward n` fails before its loss and `backward n` before the gradient of
    the first weights, when those behind them have theirs already, as if memory had run out. `always` fails every time.
    """
    kind, _, number = (what or "").partition(" ")
    calls = iter(range(10_000))

    def states(denoiser: Denoiser, *given: Any) -> tuple[Tensor, Tensor]:
        found = hidden_states(denoiser, *given)
        held.append(
            sum(
                item.to_local().numel() if isinstance(item, DTensor) else item.numel() for item in denoiser.parameters()
            )
        )
        if torch.is_grad_enabled() and (kind == "always" or next(calls) == int(number or -1)):
            if kind == "backward":
                _, first = denoiser.trainable()[0]
                handles = [first.register_hook(lambda _: fail(handles[0]))]
            elif kind == "gradient":  # 0 with the gradient 0 * inf
                return found[0] + (found[0] - found[0].detach()).square().sqrt(), found[1]
            else:
                raise RuntimeError(SHORTAGE)
        return found

    def fail(handle: RemovableHandle) -> None:
        handle.remove()
        raise RuntimeError(SHORTAGE)

    with mock.patch.object(forward, "hidden_states", states):
        yield


def do_all(job: tuple[tuple[Case, ...], Path]) -> None:
    """What each process does: all cases, one after the other, each outcome into a file."""
    cases, folder = job
    rank, count = processes.place()
    for index, case in enumerate(cases):
        torch.save(do(case, last=rank == count - 1), folder / f"{index}-{rank}.pt")


def train_with_300_tokens(epoch: Epoch) -> EpochStats:
    return _train_with(epoch, 300)


def train_with_1_token(epoch: Epoch) -> EpochStats:
    return _train_with(epoch, 1)


def _train_with(epoch: Epoch, tokens: int) -> EpochStats:
    """An epoch whose last process has memory for so many tokens at a time."""

    def states(denoiser: Denoiser, prompts: Tensor, attention: Tensor, completions: Tensor, views: Views) -> Any:
        if len(views.hidden) * len(prompts) * (prompts.shape[1] + completions.shape[1]) > tokens:
            raise RuntimeError(SHORTAGE)
        return hidden_states(denoiser, prompts, attention, completions, views)

    rank, count = processes.place()
    with mock.patch.object(forward, "hidden_states", states if rank == count - 1 else hidden_states):
        return train_here(epoch)
