"""Stage `evaluate`: what a policy reaches under a protocol, and the choice of the best round."""

import logging
import os
import time
from pathlib import Path
from typing import NamedTuple

import yaml
from flytekit import Deck
from flytekit.types.file import FlyteFile
from pydantic import BaseModel

from tasks.flyte.local import new_folder
from tasks.flyte.stage import cpu_task, gpu_task
from tasks.flyte.types import Checkpoint, ProgressFile, Table
from tasks.gdsd.config.evaluate import EvaluationConfig
from tasks.gdsd.config.prompts import Room
from tasks.gdsd.domains import DomainChoice
from tasks.gdsd.records import AnswerStats, EvalReport, Progress

logger = logging.getLogger(__name__)


class AnswerShard(BaseModel):
    """A shard's answers (schema `tables.ANSWERS`), and what they are of."""

    table: FlyteFile
    problems: str  # which they answer, in words
    stats: AnswerStats


class Evaluated(NamedTuple):
    report: EvalReport
    samples: Table


def warn_of_another_domain(policy: Checkpoint, domain: DomainChoice) -> None:
    """Says where a policy that lies in a run's folder was trained on other problems than it is asked here."""
    path = str(policy.remote_source or policy.path)
    file = Path(path).parent / "config.yaml"
    if "://" in path:
        return
    try:
        trained = yaml.safe_load(file.read_text("utf-8"))["prompts"]["domain"]["name"]
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):  # no run's folder
        return
    if trained != domain.name:
        logger.warning(
            "this policy was trained on %s problems (%s), and is asked %s problems; "
            "its own are named by `prompts` of a configuration for evaluate (docs/evaluation.md)",
            trained,
            file,
            domain.name,
        )


@gpu_task(hours=4)
def answer_problems(
    shard: int, shards: int, policy: Checkpoint, problems: Table, config: EvaluationConfig, seed: int, room: Room
) -> AnswerShard:
    """Answers one shard of the problems; together the shards are the same, however many there are.

    Args:
        room: which problems these are, and what they have to leave room for. Where several lengths are compared, it
            has the longest.

    Raises:
        CheckpointError: the folder is not a checkpoint of this project.
        DataError: a prompt and its answer do not fit the model's positions.
    """
    from tasks.gdsd import tables
    from tasks.gdsd.denoiser import checkpoint, devices
    from tasks.gdsd.evaluate import answering
    from tasks.gdsd.prompts import lengths

    state = checkpoint.load(Path(os.fspath(policy)), devices.device(), moments=False)
    state.denoiser.freeze_for_sampling()
    table = lengths.fit(state.denoiser, tables.read(Path(os.fspath(problems)), tables.PROMPTS), room).table
    rows, stats = answering.answer(state, table, config, seed, shard, shards)
    file = tables.write(rows, tables.ANSWERS, new_folder("answers") / "answers.parquet")
    if shards > 1:
        logger.info("answers at length %d: shard %d of %d done", config.sampler.length, shard + 1, shards)
    return AnswerShard(table=FlyteFile(str(file)), problems=room.problems, stats=stats)


@cpu_task(hours=4, ignored=("domain",), deck=True)
def verify_answers(
    shards: list[AnswerShard], domain: DomainChoice, rule: DomainChoice, config: EvaluationConfig, seed: int
) -> Evaluated:
    """Verifies the answers of an evaluation, and reports the solved share and the reward with intervals.

    Args:
        rule: of the domain, by which the cache knows verdicts, and two evaluations that they compare.

    Raises:
        QualityError: a critical expectation on the samples failed; the Deck shows all of them.
        DataError: no answer could be judged.
    """
    from tasks.gdsd import tables
    from tasks.gdsd.evaluate import evaluation
    from tasks.gdsd.reward import quality, rewards

    began = time.monotonic()
    answers = tables.join(tables.read(Path(os.fspath(shard.table)), tables.ANSWERS) for shard in shards)
    samples = rewards.verify(answers, domain)
    seconds = time.monotonic() - began
    checked = quality.check_samples(samples, shards[0].stats.problems, config.samples, domain)
    Deck("Quality", checked.html())
    Deck.publish()
    checked.require()
    warnings = [f"{finding.where}: {finding.expectation}" for finding in checked.warnings]
    report = evaluation.report(samples, rule, config, seed, [shard.stats for shard in shards], warnings, seconds)
    file = tables.write(samples, tables.SAMPLES, new_folder("samples") / "samples.parquet")
    logger.info(
        "evaluation after round %d: %.1f %% of %d %s problems solved, reward %.3f%s (%.1f s)",
        report.round,
        100 * report.solved.mean,
        report.protocol.problems,
        shards[0].problems,
        report.reward.mean,
        "" if report.judged == 1 else f", {report.judged:.1%} of the answers judged",
        report.seconds,
    )
    return Evaluated(report, FlyteFile(str(file)))


@cpu_task()
def select_best(
    before: Checkpoint, last: Checkpoint, progress: list[ProgressFile], validation: list[EvalReport]
) -> Checkpoint:
    """Returns the policy with the highest solved share on the validation problems, by address; reward breaks ties.

    Args:
        before: the best one before the last validation.
        last: the one of the last validation.
        progress: what the run recorded before that validation.
        validation: that one.
    """
    from tasks.gdsd.evaluate import stopping

    validations = [*Progress.read(progress).validations, *validation]
    return last if stopping.best(validations) == len(validations) - 1 else before
