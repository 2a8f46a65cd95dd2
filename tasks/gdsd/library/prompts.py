"""The problems of a run as objects, and which of them are asked in a round."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from tasks.gdsd import tables
from tasks.gdsd.config.prompts import PromptConfig
from tasks.gdsd.denoiser.checkpoint import PolicyState
from tasks.gdsd.prompts import quality
from tasks.gdsd.prompts.problems import (
    check_problems,
    check_supply,
    leave_out_near_duplicates,
    make_prompts,
    round_rows,
)


@dataclass(frozen=True)
class Prompt:
    """A problem as a policy is asked it: a row of `tables.PROMPTS`, with the same names."""

    id: str  # its own; it is part of the address of random numbers
    prompt: str  # what the policy reads, before its family's template
    problem: str  # what the verifier reads
    reference: str  # the right answer, for the verifier and the warm start


class Splits(NamedTuple):
    """The problems of a run."""

    train: list[Prompt]
    validation: list[Prompt]
    test: list[Prompt]


def problems(config: PromptConfig) -> Splits:
    """Makes or reads problems, and checks them: the same that a run of the pipeline has.

    Raises:
        QualityError: a critical expectation failed, such as one on leaks.
        DataError: a source cannot be read or is not the pinned one, or a problem is not valid in its domain.
    """
    left_out: list[str] = []
    made, near = leave_out_near_duplicates(make_prompts(config, left_out), config)
    check_supply(made, [*left_out, *near], config)
    quality.check_prompts(made, config).require()
    check_problems(config, made)
    return Splits(*(_objects(made[split]) for split in tables.SPLITS))


def _objects(table: pa.Table) -> list[Prompt]:
    return [Prompt(**row) for row in table.select(tables.PROMPTS.names).to_pylist()]


def table(prompts: Sequence[Prompt]) -> pa.Table:
    """Returns prompts with the schema `tables.PROMPTS`."""
    return pa.Table.from_pylist([vars(prompt) for prompt in prompts], tables.PROMPTS)


def pick(policy: PolicyState, prompts: Sequence[Prompt], count: int, seed: int = 0) -> list[Prompt]:
    """Returns the prompts of the policy's next round, as the pipeline takes them.

    They come in a random order, in which each is asked once before any is asked again.

    Raises:
        DataError: there are fewer than `count`.
    """
    return [prompts[row] for row in round_rows(len(prompts), count, policy.record.round, seed)]
