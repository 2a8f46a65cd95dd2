"""Stage `policy`: the base policy that training starts from."""

import logging
import os
import time
from pathlib import Path
from typing import NamedTuple

from flytekit.types.directory import FlyteDirectory

from tasks.flyte.local import new_folder
from tasks.flyte.stage import gpu_task
from tasks.flyte.types import Checkpoint, Table
from tasks.gdsd.config.policy import PolicyConfig
from tasks.gdsd.records import PolicyStats

logger = logging.getLogger(__name__)


class Policy(NamedTuple):
    checkpoint: Checkpoint
    stats: PolicyStats


@gpu_task(hours=2, retries=2)
def prepare_policy(config: PolicyConfig, train: Table, length: int) -> Policy:
    """Builds a tiny policy and warm-starts it on the answers to the training problems, or takes a published model.

    The adapter, if any, is added to it.

    Args:
        length: tokens of a completion.

    Raises:
        CheckpointError: the model is not to be had, is not the pinned one, or is of no known family.
        ConfigError: the base is wanted in 4 bits, and what that needs is not installed.
        DataError: a prompt or answer does not fit the tokenizer, the completion length or the model's positions; of a
            published model that is found out before its weights are downloaded or read.
    """
    from tasks.gdsd import tables
    from tasks.gdsd.denoiser import checkpoint, devices, quantization, tiny
    from tasks.gdsd.denoiser.load import load_outline, load_source
    from tasks.gdsd.distill import warm_start
    from tasks.gdsd.prompts import lengths

    began = time.monotonic()
    bits = None if config.adapter is None else config.adapter.base_bits
    if bits is not None:
        quantization.require()
    problems = tables.read(Path(os.fspath(train)), tables.PROMPTS)
    if config.model is not None:
        prompts = lengths.measure(load_outline(config.model), problems, length)
        denoiser = load_source(config.model, devices.device(), bits=bits)
    else:
        assert config.tiny is not None and config.warm_start is not None  # the configuration sees to it
        denoiser = tiny.build(config.tiny, config.seed).to(devices.device())
        prompts = lengths.measure(denoiser, problems, length)
        warm_start.warm_start(denoiser, problems, config.warm_start, length, config.seed)
    if config.adapter is not None:
        denoiser.attach_adapter(config.adapter, config.seed)
    state = checkpoint.base_state(denoiser)
    folder = checkpoint.save(new_folder("policy") / "checkpoint", state)
    stats = PolicyStats(
        parameters=quantization.weights(denoiser),
        prompt_tokens_mean=prompts.mean,
        prompt_tokens_longest=prompts.longest,
        seconds=time.monotonic() - began,
        device=devices.name(denoiser.device),
    )
    logger.info(
        "base policy: %s, %s parameters, of which %s will be trained",
        denoiser.family.name,
        f"{stats.parameters:,}",
        f"{sum(parameter.numel() for _, parameter in denoiser.trainable()):,}",
    )
    return Policy(FlyteDirectory(str(folder)), stats)


@gpu_task(hours=2, retries=2)
def take_policy(policy: Checkpoint, train: Table, length: int) -> Policy:
    """Makes a trained policy the base of another run: its weights, without the rounds and the optimizer behind it.

    Args:
        length: tokens of a completion.

    Raises:
        CheckpointError: the folder is not a checkpoint of this project.
        DataError: a prompt and its answer do not fit the model's positions.
    """
    from tasks.gdsd import tables
    from tasks.gdsd.denoiser import checkpoint, checkpoint_record, devices, quantization
    from tasks.gdsd.prompts import lengths

    began = time.monotonic()
    problems = tables.read(Path(os.fspath(train)), tables.PROMPTS)
    folder = checkpoint.rebase(Path(os.fspath(policy)), new_folder("policy") / "checkpoint")
    denoiser = checkpoint.load(folder, devices.device(), moments=False).denoiser
    prompts = lengths.measure(denoiser, problems, length)
    stats = PolicyStats(
        parameters=quantization.weights(denoiser),
        prompt_tokens_mean=prompts.mean,
        prompt_tokens_longest=prompts.longest,
        seconds=time.monotonic() - began,
        parent=checkpoint_record.read_record(folder).parent,
        device=devices.name(denoiser.device),
    )
    logger.info("base policy: the champion, %s, %s parameters", denoiser.family.name, f"{stats.parameters:,}")
    return Policy(FlyteDirectory(str(folder)), stats)
