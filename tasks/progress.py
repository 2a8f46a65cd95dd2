"""What a run says of itself while it goes on."""

import logging
from datetime import timedelta

from flytekit import Cache, task

from images import CPU
from tasks.gdsd.records import DriftStats, EpochStats, EvalReport, Progress, RewardStats
from tasks.sources import SourceVersion

logger = logging.getLogger(__name__)


@task(
    container_image=CPU.image,
    requests=CPU.requests,
    limits=CPU.limits,
    cache=Cache(policies=[SourceVersion()], serialize=True),
    retries=3,
    timeout=timedelta(hours=1),
    interruptible=True,
)
def report_progress(
    before: Progress,
    drifts: list[DriftStats],
    rewards: list[RewardStats],
    epochs: list[EpochStats],
    validations: list[EvalReport],
) -> Progress:
    """Adds rounds to what a run has recorded, with the validation before them, if there was one."""
    return Progress(
        drifts=[*before.drifts, *drifts],
        rewards=[*before.rewards, *rewards],
        epochs=[*before.epochs, *epochs],
        validations=[*before.validations, *validations],
    )
