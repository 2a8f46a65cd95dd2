"""Stage `check`: verdicts on answers of which much is known, and the room that problems need, before all training."""

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flytekit import Deck
from flytekit.types.file import FlyteFile
from pydantic import BaseModel

from tasks.flyte.stage import cpu_task
from tasks.flyte.types import Table
from tasks.gdsd.config.evaluate import EvaluationConfig, GateConfig
from tasks.gdsd.config.prompts import PromptConfig, Room
from tasks.gdsd.config.train import RolloutConfig
from tasks.gdsd.domains import DomainChoice, make
from tasks.gdsd.records import CheckStats

if TYPE_CHECKING:
    from tasks.gdsd.reward.probes import Probed

logger = logging.getLogger(__name__)
FEW, SEVERAL = 3, 10  # problems of a table that are looked at: at the start of a run, and where that is all there is


class Section(BaseModel):
    """A part of a check: problems, and what is asked of them."""

    problems: str  # which they are, in words
    domain: DomainChoice
    completions: int | None = None  # of a round
    right_only: bool = False  # whether only right answers are looked at, since others were with other problems


class CheckResult(BaseModel):
    """What a check came to; printed at its end."""

    text: str
    warnings: list[str]

    def __str__(self) -> str:
        return f"\n{self.text}\n{len(self.warnings) or 'no'} warning{'s' * (len(self.warnings) != 1)}"


def sections(prompts: PromptConfig, rollout: RolloutConfig, judge: GateConfig) -> list[Section]:
    """Returns what is asked of the problems of a run, in the order train, validation, test and guards."""
    completions = rollout.prompts_per_round * rollout.group_size
    splits = [Section(problems="train", domain=prompts.domain, completions=completions)]
    splits += [Section(problems=split, domain=prompts.domain, right_only=True) for split in ("validation", "test")]
    return [*splits, *(Section(problems=f"guard {name}", domain=guard.domain) for name, guard in judge.guards.items())]


def rooms_for(
    prompts: PromptConfig, rollout: RolloutConfig, evaluation: EvaluationConfig, judge: GateConfig
) -> list[Room]:
    """Returns what the problems of a run have to leave room for: train, validation, test and each guard."""
    room = Room(
        problems="train",
        length=evaluation.sampler.length,
        writes_references=make(prompts.domain).reference_is_answer,
        unusable=prompts.unusable,
    )
    training = {"length": rollout.sampler.length, "sampler": "rollout.sampler", "least": rollout.prompts_per_round}
    rooms = [room.model_copy(update=training)]
    rooms += [room.model_copy(update={"problems": split}) for split in ("validation", "test")]
    for name, guard in judge.guards.items():
        own = {"problems": name, "section": f"judge.guards.{name}", "unusable": guard.unusable}
        rooms.append(room.model_copy(update=own | {"writes_references": make(guard.domain).reference_is_answer}))
    return rooms


@cpu_task(hours=2, deck=True)
def check_rewards(problems: list[Table], sections: list[Section]) -> CheckStats:
    """Asks the domains of a run for verdicts on a few answers, and returns what looks wrong with them.

    Args:
        problems: tables of problems.
        sections: what is asked of each of them.

    Raises:
        DataError: a domain raised an error, its verdicts are not what it declares, or nobody could train on them.
        SandboxError: answers have to be run, and this system cannot do so.
    """
    began = time.monotonic()
    found = _probe(problems, sections, FEW)
    for probed in found:
        probed.require()
        for warned in probed.warnings:
            logger.warning("%s, %s: %s", probed.domain, probed.problems, warned.said)
    names = [f"{probed.problems} verdicts: {warned.name}" for probed in found for warned in probed.warnings]
    return CheckStats(warnings=names, seconds=time.monotonic() - began, ended_unix_seconds=time.time())


@cpu_task(hours=2, cached=False, deck=True)
def show_verdicts(problems: list[Table], sections: list[Section]) -> CheckResult:
    """Shows what the domains say of answers to some problems, in the log and in the Deck, and what is wrong with it.

    Args:
        problems: tables of problems.
        sections: what is asked of each of them.

    Raises:
        DataError: as in `check_rewards`.
        SandboxError: as in `check_rewards`.
    """
    from tasks.gdsd.report import verdicts

    found = _probe(problems, sections, SEVERAL)
    text = verdicts.text(found)
    if any(probed.fault for probed in found):
        logger.error("\n%s", text)  # a task that fails has no result to be printed
    for probed in found:
        probed.require()
    return CheckResult(text=text, warnings=[warned.said for probed in found for warned in probed.warnings])


def _probe(problems: Sequence[FlyteFile], sections: Sequence[Section], number: int) -> "list[Probed]":
    """Returns what was found, but for problems of which nothing is asked; and shows it, also where that is a fault."""
    from tasks.gdsd import tables
    from tasks.gdsd.report import verdicts
    from tasks.gdsd.reward import probes

    found = [
        probes.probe(
            section.problems,
            section.domain,
            tables.read(Path(os.fspath(table)), tables.PROMPTS),
            number=number,
            completions=section.completions,
            kinds=probes.KINDS[: 1 if section.right_only else None],
        )
        for table, section in zip(problems, sections, strict=True)
    ]
    found = [probed for probed in found if probed.probes]
    Deck("Verdicts", verdicts.page(found))
    Deck.publish()
    return found
