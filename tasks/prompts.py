"""Stage `prompts`: the problems of a run, checked before anything is trained on them."""

import logging
import os
import time
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from flytekit import Deck
from flytekit.types.file import FlyteFile

from tasks.flyte.local import in_pod, new_folder
from tasks.flyte.stage import cpu_task
from tasks.flyte.store_options import storage_options
from tasks.flyte.types import Table, stored_file
from tasks.gdsd import files
from tasks.gdsd.config.evaluate import GuardConfig
from tasks.gdsd.config.prompts import PromptConfig, TestConfig, Unusable
from tasks.gdsd.errors import DataError
from tasks.gdsd.records import PromptStats

if TYPE_CHECKING:
    from tasks.gdsd.prompts.expectations import QualityReport

logger = logging.getLogger(__name__)
LEFT_OUT = "left_out.txt"  # beside the problems
LISTED = 100  # problems that were left out, of which the Deck says why
files.use(storage_options)  # of prompt files, on the client too, which pins them when it loads a configuration


class Prompts(NamedTuple):
    train: Table
    validation: Table
    test: Table
    stats: PromptStats


@cpu_task(deck=True)
def prepare_prompts(config: PromptConfig, prompts_per_round: int) -> Prompts:
    """Makes or loads the training, validation and test problems and checks them with Great Expectations.

    Raises:
        QualityError: a critical expectation failed; the Deck shows all of them.
        DataError: a source cannot be read or is not the pinned one, a problem is not valid in its domain, or there are
            fewer training problems than a round uses.
    """
    from tasks.gdsd import tables
    from tasks.gdsd.prompts import problems as prompts
    from tasks.gdsd.prompts import quality

    began = time.monotonic()
    unusable: list[str] = []
    made, near = prompts.leave_out_near_duplicates(prompts.make_prompts(config, unusable), config)
    prompts.check_supply(made, [*unusable, *near], config, prompts_per_round)
    report = quality.check_prompts(made, config)
    _show(report, [*unusable, *near])
    prompts.check_problems(config, made)
    folder = new_folder("prompts")
    written = {split: tables.write(table, tables.PROMPTS, folder / f"{split}.parquet") for split, table in made.items()}
    stats = PromptStats(
        train=made["train"].num_rows,
        validation=made["validation"].num_rows,
        test=made["test"].num_rows,
        near_duplicates=len(near),
        unusable=len(unusable),
        checks=len(report.findings),
        warnings=[f"{finding.where}: {finding.expectation}" for finding in report.warnings],
        seconds=time.monotonic() - began,
        ended_unix_seconds=time.time(),
    )
    logger.info("prompts: %s", prompts.said_sizes(made, config))
    _tell(unusable, near, "prompts", folder)
    train, validation, test = (stored_file(written[split]) for split in ("train", "validation", "test"))
    return Prompts(train, validation, test, stats)


@cpu_task(deck=True)
def prepare_test(config: TestConfig) -> Table:
    """Makes or loads test problems alone and checks them with Great Expectations.

    Raises:
        QualityError: a critical expectation failed; the Deck shows all of them.
        DataError: a source cannot be read or is not the pinned one, or a problem is not valid in its domain.
    """
    return _prepare_test(config, {}, 1.0, "refuse", "prompts")


@cpu_task(deck=True)
def prepare_guard(name: str, config: GuardConfig, prompts: PromptConfig, train: Table) -> Table:
    """Makes or loads the problems of a guard, and refuses or leaves out those that the policy is trained on.

    Args:
        name: of the guard, which errors have, since those of several are alike.

    Raises:
        QualityError: a critical expectation failed, such as one on leaks; the Deck shows all of them.
        DataError: a source cannot be read or is not the pinned one, or a problem is not valid in its domain.
    """
    from tasks.gdsd import tables

    same = config.domain.name == prompts.domain.name
    rows = tables.read(Path(os.fspath(train)), tables.PROMPTS).to_pylist() if same else []
    trained_on = {row["id"]: row["problem"] for row in rows}
    try:
        return _prepare_test(config, trained_on, prompts.similarity, prompts.near_duplicates, f"guard {name}")
    except DataError as error:
        own = str(error).replace(config.section, f"judge.guards.{name}")
        raise type(error)(f"guard {name}: {own}") from None


def _prepare_test(
    config: TestConfig, trained_on: dict[str, str], similarity: float, near_duplicates: Unusable, whose: str
) -> FlyteFile:
    from tasks.gdsd import tables
    from tasks.gdsd.prompts import problems as prompts
    from tasks.gdsd.prompts import quality

    unusable: list[str] = []
    table = prompts.make_test(config, unusable)
    near: list[str] = []
    if near_duplicates == "drop":
        table, near = prompts.leave_out_trained_on(table, config.domain, trained_on, similarity)
    left_out = [*unusable, *near]
    prompts.check_supply({"test": table}, left_out, config)
    _show(quality.check_test(table, config, trained_on, similarity), left_out)
    prompts.check_problems(config, {"test": table})
    folder = new_folder("prompts")
    _tell(unusable, near, whose, folder)
    return stored_file(tables.write(table, tables.PROMPTS, folder / "test.parquet"))


def _tell(unusable: list[str], near: list[str], whose: str, folder: Path) -> None:
    """Says how many problems were left out, and where a local run, whose Decks nobody sees, lists all of them."""
    if not in_pod() and (left_out := [*unusable, *near]):
        file = folder / LEFT_OUT
        file.write_text("".join(f"{text}\n" for text in left_out), "utf-8")
        logger.info("%s: %d problems left out, all listed in %s", whose, len(left_out), file)
    if near:
        logger.info("%s: %d left out for being nearly those of another split; the first: %s", whose, len(near), near[0])
    if unusable:
        logger.info("%s: %d unusable rows left out; the first: %s", whose, len(unusable), unusable[0])


def _show(report: "QualityReport", left_out: list[str]) -> None:
    """Puts a report into the Deck, also where it stops the run."""
    listed = "".join(f"<li>{escape(text)}</li>" for text in left_out[:LISTED])
    Deck(
        "Quality",
        f"{report.html()}<p>{len(left_out)} problems were left out (rows are counted from 0).</p><ul>{listed}</ul>",
    )
    Deck.publish()
    report.require()
