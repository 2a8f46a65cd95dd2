"""Epochs that several processes share, for tests: cases, and what each process does with them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from tasks.gdsd import checkpoint, distiller, parallel
from tasks.gdsd.checkpoint import PolicyState
from tasks.gdsd.config import AdapterConfig, DistillConfig
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.errors import GdsdError
from tasks.gdsd.records import EpochStats
from tasks.gdsd.scoring import hidden_states
from tests.gdsd.conftest import build
from tests.gdsd.epochs import CONFIG, GROUP, ended, run, scored

SHORTAGE = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes. Error code 12"


@dataclass(frozen=True)
class Case:
    """An epoch, and what goes wrong in it in the last process."""

    config: DistillConfig = CONFIG
    groups: tuple[int, ...] = (0, 1, 2, 3, 4)
    adapter: bool = False
    broken: str | None = None
    evidence: Path = Path("/dev/null/evidence")


@dataclass(frozen=True)
class Outcome:
    """What a process has after an epoch."""

    weights: dict[str, Tensor]
    moments: dict[str, Tensor]
    stats: EpochStats | None
    error: GdsdError | None


def start_of(case: Case) -> PolicyState:
    denoiser = build()
    if case.adapter:
        denoiser.attach_adapter(AdapterConfig(rank=4, alpha=8.0), 0)
        source = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for _, parameter in denoiser.trainable():  # away from the base, so that its scores are others
                parameter += 0.1 * torch.randn(parameter.shape, generator=source)
    return checkpoint.base_state(denoiser)


def do(case: Case, last: bool = True) -> Outcome:
    """Runs the epoch of a case in this process."""
    start = start_of(case)
    base = None if case.adapter else checkpoint.base_state(build(seed=1))
    groups = sorted(case.groups)
    table = ended(scored(start.denoiser, groups), start.denoiser.end_id)
    table = table.take([GROUP * groups.index(group) + sample for group in case.groups for sample in range(GROUP)])
    with breaking(case.broken if last else None):
        try:
            trained, stats = run(start, table, case.config, base, evidence=case.evidence)
        except GdsdError as error:
            return Outcome({}, {}, None, error)
    held = {name: parameter.detach() for name, parameter in trained.denoiser.named_parameters()}
    return Outcome(held, trained.optimizer, stats, None)


@contextmanager
def breaking(what: str | None) -> Iterator[None]:
    """Breaks the n-th micro-batch of an epoch, counted from 0.

    `gradient n` makes its gradient infinite. `forward n` fails before its loss and `backward n` before the gradient of
    the first weights, when those behind them have theirs already, as if memory had run out. `always` fails every time.
    """
    kind, _, number = (what or "").partition(" ")
    calls = iter(range(10_000))

    def states(denoiser: Denoiser, *given: Any) -> tuple[Tensor, Tensor]:
        found = hidden_states(denoiser, *given)
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

    with mock.patch.object(distiller, "hidden_states", states):
        yield


def do_all(job: tuple[tuple[Case, ...], Path]) -> None:
    """What each process does: all cases, one after the other, each outcome into a file."""
    cases, folder = job
    rank, count = parallel.place()
    for index, case in enumerate(cases):
        torch.save(do(case, last=rank == count - 1), folder / f"{index}-{rank}.pt")
