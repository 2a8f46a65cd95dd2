"""Stage `policy`: the base policy that training starts from, and the problems that it can be asked."""

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from flytekit.types.file import FlyteFile

from tasks.flyte.local import new_folder
from tasks.flyte.stage import cpu_task, gpu_task
from tasks.flyte.types import Checkpoint, Table, stored, stored_file
from tasks.gdsd.config.policy import PolicyConfig
from tasks.gdsd.config.prompts import Room
from tasks.gdsd.records import PolicyStats

if TYPE_CHECKING:
    import pyarrow as pa

    from tasks.gdsd.denoiser.denoiser import Denoiser
    from tasks.gdsd.prompts.lengths import Fitted

logger = logging.getLogger(__name__)


class Policy(NamedTuple):
    """The base policy, and the problems that it can be asked."""

    checkpoint: Checkpoint
    train: Table
    validation: Table
    test: Table
    guards: list[Table]
    stats: PolicyStats


@gpu_task(hours=2, retries=2)
def prepare_policy(
    config: PolicyConfig, train: Table, validation: Table, test: Table, guards: list[Table], rooms: list[Room]
) -> Policy:
    """Builds a tiny policy and warm-starts it on the answers to the training problems, or takes a model that is there.

    The adapter, if any, is added to it, or goes on. All problems of the run are measured with its tokenizer before.

    Args:
        rooms: what the problems have to leave room for: those of train, validation and test, then of each guard.

    Raises:
        CheckpointError: the model is not to be had, is not the pinned one, or is of no known family.
        ConfigError: the base is wanted in 4 bits, and what that needs is not installed; or the model has an adapter
            that is not the configured one, or the configuration does not say what becomes of it.
        DataError: a prompt or answer does not fit the tokenizer, the completion length or the model's positions; of a
            published model that is found out before its weights are downloaded or read. Or the problems have more
            different characters than an alphabet.
    """
    from tasks.gdsd.denoiser import checkpoint, devices, quantization
    from tasks.gdsd.distill import beginning

    began = time.monotonic()
    bits = None if config.adapter is None else config.adapter.base_bits
    if bits is not None:
        quantization.require()
    asked = [train, validation, test, *guards]
    outlined, fitted = beginning.measure(config, _read(asked), rooms)
    state = beginning.complete(config, outlined, fitted[0].table, rooms[0].length, devices.device())
    denoiser = state.denoiser
    folder = checkpoint.save(new_folder("policy") / "checkpoint", state)
    logger.info(
        "base policy: %s, %s parameters, of which %s will be trained",
        denoiser.family.name,
        f"{quantization.weights(denoiser):,}",
        f"{sum(parameter.numel() for _, parameter in denoiser.trainable()):,}",
    )
    return _policy(folder, denoiser, asked, fitted, began, None)


@gpu_task(hours=2, retries=2)
def take_policy(
    policy: Checkpoint, train: Table, validation: Table, test: Table, guards: list[Table], rooms: list[Room]
) -> Policy:
    """Makes a trained policy the base of another run: its weights, without the rounds and the optimizer behind it.

    Args:
        rooms: as for `prepare_policy`.

    Raises:
        CheckpointError: the folder is not a checkpoint of this project.
        DataError: a prompt and its answer do not fit the model's positions.
    """
    from tasks.gdsd.denoiser import checkpoint, checkpoint_record, devices, quantization
    from tasks.gdsd.prompts import lengths

    began = time.monotonic()
    folder = checkpoint.rebase(Path(os.fspath(policy)), new_folder("policy") / "checkpoint")
    denoiser = checkpoint.load(folder, devices.device(), moments=False).denoiser
    asked = [train, validation, test, *guards]
    fitted = lengths.fit_all(denoiser, _read(asked), rooms)
    logger.info(
        "base policy: the champion, %s, %s parameters", denoiser.family.name, f"{quantization.weights(denoiser):,}"
    )
    return _policy(folder, denoiser, asked, fitted, began, checkpoint_record.read_record(folder).parent)


@cpu_task(cached=False)
def measure_problems(config: PolicyConfig, problems: list[Table], rooms: list[Room]) -> None:
    """Says whether the base can be asked the problems of a run, as `prepare_policy` would; it reads no weights.

    Args:
        rooms: what each table of problems has to leave room for.

    Raises:
        CheckpointError, ConfigError, DataError: see `prepare_policy`.
    """
    from tasks.gdsd.distill import beginning

    outlined, fitted = beginning.measure(config, _read(problems), rooms)
    for fit, room in zip(fitted, rooms, strict=True):
        logger.info(
            "%s: the policy can read %d problems; prompts have at most %d tokens and completions %d, and there is room "
            "for %s",
            room.problems,
            fit.table.num_rows,
            fit.longest,
            room.length,
            f"{outlined.positions:,}",
        )


def _read(asked: Sequence[FlyteFile]) -> "list[pa.Table]":
    from tasks.gdsd import tables

    return [tables.read(Path(os.fspath(table)), tables.PROMPTS) for table in asked]


def _policy(
    folder: Path,
    denoiser: "Denoiser",
    asked: Sequence[FlyteFile],
    fitted: "Sequence[Fitted]",
    began: float,
    parent: str | None,
) -> Policy:
    """Returns a base with the problems that fit it: a table as it came, or another one where some were left out."""
    from tasks.gdsd import tables
    from tasks.gdsd.denoiser import devices, quantization

    kept = [
        stored_file(tables.write(fit.table, tables.PROMPTS, new_folder("prompts") / "fitting.parquet"))
        if fit.left_out
        else table
        for table, fit in zip(asked, fitted, strict=True)
    ]
    stats = PolicyStats(
        parameters=quantization.weights(denoiser),
        prompt_tokens_mean=fitted[0].mean,
        prompt_tokens_longest=fitted[0].longest,
        train_sha256=tables.fingerprint(fitted[0].table),
        unusable=sum(fit.left_out for fit in fitted),
        seconds=time.monotonic() - began,
        ended_unix_seconds=time.time(),
        parent=parent,
        device=devices.name(denoiser.device),
    )
    train, validation, test, *guards = kept
    return Policy(stored(folder), train, validation, test, guards, stats)
