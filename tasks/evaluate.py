"""Stage `evaluate`: what a policy reaches under a protocol, and the choice of the best round."""

import logging
import os
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from flytekit import Cache, task
from flytekit.types.file import FlyteFile

from images import CPU, GPU
from tasks.gdsd.config import EvaluationConfig
from tasks.gdsd.records import EvalReport
from tasks.local import new_folder
from tasks.sources import SourceVersion
from tasks.types import Checkpoint, Table

logger = logging.getLogger(__name__)


class Evaluated(NamedTuple):
    report: EvalReport
    samples: Table


@task(
    container_image=GPU.image,
    requests=GPU.requests,
    limits=GPU.limits,
    cache=Cache(policies=[SourceVersion()], serialize=True),
    retries=3,
    timeout=timedelta(hours=4),
    interruptible=True,
)
def evaluate_policy(policy: Checkpoint, problems: Table, domain: str, config: EvaluationConfig, seed: int) -> Evaluated:
    """Answers every problem once and reports the solved share and the reward with intervals.

    Raises:
        CheckpointError: the folder is not a checkpoint of this project.
    """
    from tasks.gdsd import checkpoint, devices, evaluation, tables

    state = checkpoint.load(Path(os.fspath(policy)), devices.device())
    table = tables.read(Path(os.fspath(problems)), tables.PROMPTS)
    report, samples = evaluation.evaluate(state, table, domain, config, seed)
    file = tables.write(samples, tables.SAMPLES, new_folder("samples") / "samples.parquet")
    logger.info(
        "evaluation after round %d: %.1f %% of %d problems solved, reward %.3f (%.1f s)",
        report.round,
        100 * report.solved.mean,
        report.protocol.problems,
        report.reward.mean,
        report.seconds,
    )
    return Evaluated(report, FlyteFile(str(file)))


@task(
    container_image=CPU.image,
    requests=CPU.requests,
    limits=CPU.limits,
    cache=Cache(policies=[SourceVersion()], serialize=True),
    retries=2,
    timeout=timedelta(hours=1),
    interruptible=True,
)
def select_best(policies: list[Checkpoint], validations: list[EvalReport]) -> Checkpoint:
    """Returns the policy with the highest solved share on the validation problems, by address; reward breaks ties."""
    from tasks.gdsd import evaluation

    return policies[evaluation.best(validations)]
