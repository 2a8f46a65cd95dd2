"""Stage `prompts`: the problems of a run, checked before anything is trained on them."""

import logging
import time
from datetime import timedelta
from typing import NamedTuple

from flytekit import Cache, Deck, task
from flytekit.types.file import FlyteFile

from images import CPU
from tasks.gdsd.config import GuardConfig, PromptConfig
from tasks.gdsd.records import PromptStats
from tasks.local import new_folder
from tasks.sources import SourceVersion
from tasks.types import Table

logger = logging.getLogger(__name__)


class Prompts(NamedTuple):
    train: Table
    validation: Table
    test: Table
    stats: PromptStats


@task(
    container_image=CPU.image,
    requests=CPU.requests,
    limits=CPU.limits,
    cache=Cache(policies=[SourceVersion()], serialize=True),
    retries=2,
    timeout=timedelta(hours=1),
    interruptible=True,
    enable_deck=True,
    deck_fields=(),
)
def prepare_prompts(config: PromptConfig, prompts_per_round: int = 0) -> Prompts:
    """Makes or loads the training, validation and test problems and checks them with Great Expectations.

    Without `prompts_per_round` they are for an evaluation: where training problems come from a source and none is
    named, there are none.

    Raises:
        QualityError: a critical expectation failed; the Deck shows all of them.
        DataError: a file cannot be read or is not the pinned one, a problem is not valid in its domain, or there are
            fewer training problems than a round uses.
    """
    from tasks.gdsd import prompts, quality, tables

    began = time.monotonic()
    made, left_out = prompts.leave_out_near_duplicates(prompts.make_prompts(config), config)
    report = quality.check_prompts(made, config, trained_on=prompts_per_round > 0)
    Deck("Quality", report.html())
    Deck.publish()
    report.require()
    prompts.check_problems(config.domain, made)
    if prompts_per_round:
        prompts.round_rows(made["train"].num_rows, prompts_per_round, 0, config.seed)
    folder = new_folder("prompts")
    files = {split: tables.write(table, tables.PROMPTS, folder / f"{split}.parquet") for split, table in made.items()}
    stats = PromptStats(
        train=made["train"].num_rows,
        validation=made["validation"].num_rows,
        test=made["test"].num_rows,
        left_out=left_out,
        checks=len(report.findings),
        warnings=[finding.expectation for finding in report.warnings],
        seconds=time.monotonic() - began,
    )
    logger.info("prompts: %d to train, %d to validate, %d to test", stats.train, stats.validation, stats.test)
    if left_out:
        logger.info("prompts: %d training problems left out, being nearly those of another split", left_out)
    train, validation, test = (FlyteFile(str(files[split])) for split in ("train", "validation", "test"))
    return Prompts(train, validation, test, stats)


@task(
    container_image=CPU.image,
    requests=CPU.requests,
    limits=CPU.limits,
    cache=Cache(policies=[SourceVersion()], serialize=True),
    retries=2,
    timeout=timedelta(hours=1),
    interruptible=True,
    enable_deck=True,
    deck_fields=(),
)
def prepare_guard(config: GuardConfig) -> Table:
    """Makes or loads the problems of a guarded domain and checks them with Great Expectations.

    Raises:
        QualityError: a critical expectation failed; the Deck shows all of them.
        DataError: a source cannot be read or is not the pinned one, or a problem is not valid in its domain.
    """
    from tasks.gdsd import prompts, quality, tables

    table = prompts.make_test(config)
    report = quality.check_test(table, config)
    Deck("Quality", report.html())
    Deck.publish()
    report.require()
    prompts.check_problems(config.domain, {"test": table})
    return FlyteFile(str(tables.write(table, tables.PROMPTS, new_folder("prompts") / "test.parquet")))
