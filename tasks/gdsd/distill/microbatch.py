"""An epoch's completions in pieces that fit the memory: who computes which, and how they are cut."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.gdsd.config.objective import DiffuGrpoConfig, EspoConfig, GdsdConfig, ObjectiveConfig, SpgConfig
from tasks.gdsd.distill.batch import Batch
from tasks.gdsd.records import Record


def smallest(objective: ObjectiveConfig, group_size: int) -> int:
    """Returns how many completions must be scored together: a group, unless each one's loss is its own affair."""
    alone = isinstance(objective, EspoConfig | SpgConfig | DiffuGrpoConfig)
    return 1 if alone or (isinstance(objective, GdsdConfig) and objective.baseline == "zero") else group_size


def deal(lengths: list[int], processes: int) -> list[list[int]]:
    """Deals groups to processes, each to the one with the least to do; a hand is in order of length, longest first.

    Args:
        lengths: tokens of each group's sequences.

    Returns:
        The groups of each process, which depend on nothing but the lengths and their order.
    """
    hands: list[list[int]] = [[] for _ in range(processes)]
    load = [0] * processes
    for group in sorted(range(len(lengths)), key=lambda group: -lengths[group]):
        process = load.index(min(load))
        hands[process].append(group)
        load[process] += lengths[group]
    return hands


def share(batch: Batch, group_size: int, process: int, processes: int) -> Batch:
    """Returns the completions of a process: whole groups, longest prompts first. There may be none."""
    lengths = (batch.prompt_lengths[::group_size] + batch.completions.shape[1]).tolist()
    hand = torch.tensor(deal(lengths, processes)[process], dtype=torch.int64, device=batch.prompts.device)
    members = torch.arange(group_size, device=batch.prompts.device)
    return batch.rows((hand[:, None] * group_size + members).flatten())


@dataclass(frozen=True)
class Fixed:
    """What is read of a micro-batch at first, and all updates keep."""

    candidates: Tensor | None  # (R, k): the old policy's likeliest tokens
    old: Tensor  # (C, B, L)
    ref: Tensor | None  # (C, B, L)
    ref_log_prob: Tensor | None  # (C, B, L)

    def rows(
        self,
        chosen: slice,
        read: Tensor,  # (C, B, L) bool, R of them true
    ) -> "Fixed":
        here = torch.zeros_like(read)
        here[:, chosen] = True
        return Fixed(
            None if self.candidates is None else self.candidates[here[read]],
            self.old[:, chosen],
            None if self.ref is None else self.ref[:, chosen],
            None if self.ref_log_prob is None else self.ref_log_prob[:, chosen],
        )


@dataclass(frozen=True)
class MicroBatch:
    """Completions that go through the denoiser together, in all their views; longest prompts first."""

    batch: Batch
    fixed: Fixed | None = None
    counts: bool = True  # otherwise it is gone through for the sake of other processes

    def __len__(self) -> int:
        return len(self.batch.advantages)

    @property
    def tokens(self) -> int:
        """Tokens of the denoiser's input, padding included."""
        views = len(self.batch.views.hidden)
        return views * len(self) * (self.batch.prompts.shape[1] + self.batch.completions.shape[1])

    def cut(self, tokens: int, unit: int) -> "list[MicroBatch]":
        """Cuts into micro-batches of at most so many tokens, but of at least `unit` completions, a divisor of all."""
        per_completion = (self.batch.prompt_lengths + self.batch.completions.shape[1]) * len(self.batch.views.hidden)
        costs = per_completion[::unit].tolist()  # the first of a micro-batch has the longest prompt
        parts, start = [], 0
        while start < len(self):
            size = max(1, tokens // (unit * costs[start // unit])) * unit
            parts.append(self.rows(slice(start, min(start + size, len(self)))))
            start += size
        return parts

    def rows(self, chosen: slice) -> "MicroBatch":
        if len(range(len(self))[chosen]) == len(self):
            return self
        fixed = None if self.fixed is None else self.fixed.rows(chosen, self.batch.views.read)
        return MicroBatch(self.batch.rows(chosen), fixed)


class Cut(Record):
    """How a process's completions are cut into micro-batches, on which rounding depends."""

    tokens: int  # what a micro-batch may have
    first: list[int]  # completions of each when the start policy's scores were read
    now: list[int]  # as many, or more and smaller ones if memory ran short since


def refine(parts: list[MicroBatch], sizes: list[int]) -> list[MicroBatch]:
    """Cuts micro-batches into smaller ones of known sizes, in order."""
    found, rest = [], iter(sizes)
    for part in parts:
        start = 0
        while start < len(part):
            size = next(rest)
            found.append(part.rows(slice(start, start + size)))
            start += size
    return found
