"""Stage `policy`: the base policy that training starts from."""

import logging
import os
import time
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from flytekit import Cache, task
from flytekit.types.directory import FlyteDirectory

from images import GPU
from tasks.gdsd.config import PolicyConfig
from tasks.gdsd.records import PolicyStats
from tasks.local import new_folder
from tasks.sources import SourceVersion
from tasks.types import Checkpoint, Table

logger = logging.getLogger(__name__)


class Policy(NamedTuple):
    checkpoint: Checkpoint
    stats: PolicyStats


@task(
    container_image=GPU.image,
    requests=GPU.requests,
    limits=GPU.limits,
    cache=Cache(policies=[SourceVersion()], serialize=True),
    retries=2,
    timeout=timedelta(hours=2),
    interruptible=True,
)
def prepare_policy(config: PolicyConfig, train: Table, length: int) -> Policy:
    """Builds the base policy, warm-starts it on the answers to the training problems, and adds the adapter if any.

    Raises:
        DataError: a prompt or answer does not fit the tokenizer or the completion length.
    """
    from tasks.gdsd import checkpoint, devices, tables, warm_start
    from tasks.gdsd.denoiser import tiny

    began = time.monotonic()
    problems = tables.read(Path(os.fspath(train)), tables.PROMPTS)
    denoiser = tiny.build(config.tiny, config.seed).to(devices.device())
    warm_start.warm_start(denoiser, problems, config.warm_start, length, config.seed)
    if config.adapter is not None:
        denoiser.attach_adapter(config.adapter, config.seed)
    state = checkpoint.base_state(denoiser)
    folder = checkpoint.save(new_folder("policy") / "checkpoint", state)
    stats = PolicyStats(
        parameters=sum(parameter.numel() for parameter in denoiser.parameters()), seconds=time.monotonic() - began
    )
    logger.info(
        "base policy: %s parameters, of which %s will be trained, %d warm-start steps",
        f"{stats.parameters:,}",
        f"{sum(parameter.numel() for _, parameter in denoiser.trainable()):,}",
        config.warm_start.steps,
    )
    return Policy(FlyteDirectory(str(folder)), stats)
