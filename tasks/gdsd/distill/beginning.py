"""The policy that a run begins with: a tiny one, warm-started, or a model that is there; with its adapter, if any."""

from collections.abc import Iterable, Sequence

import pyarrow as pa
import torch

from tasks.gdsd.config.policy import PolicyConfig
from tasks.gdsd.config.prompts import Room
from tasks.gdsd.denoiser import checkpoint, start, tiny
from tasks.gdsd.denoiser.checkpoint import PolicyState
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.distill.warm_start import warm_start
from tasks.gdsd.domains.alphabet import ALPHABET
from tasks.gdsd.prompts import lengths
from tasks.gdsd.prompts.lengths import Fitted


def outline(config: PolicyConfig, asked: Iterable[pa.Table], rooms: Sequence[Room]) -> Denoiser:
    """Returns what reads and measures prompts: a published model without its weights, or a tiny one before training.

    Args:
        asked: all problems of the run, with the schema `tables.PROMPTS`; an alphabet `from_data` is made of them.
        rooms: what each of these tables has to leave room for.

    Raises:
        CheckpointError: see `start.load`.
        ConfigError: see `start.load`.
        DataError: the problems have more different characters than an alphabet.
    """
    if config.model is not None:
        return start.outline(config)
    assert config.tiny is not None  # the configuration sees to it
    alphabet = ALPHABET if config.tiny.alphabet == "plain" else lengths.alphabet(asked, rooms)
    return tiny.build(config.tiny, config.seed, alphabet)


def measure(config: PolicyConfig, asked: Sequence[pa.Table], rooms: Sequence[Room]) -> tuple[Denoiser, list[Fitted]]:
    """Returns the outline of a policy, and those problems of each table that the policy can be asked.

    Args:
        asked: all problems of the run; those of the first table teach a policy that is warm-started.
        rooms: what each of these tables has to leave room for.

    Raises:
        CheckpointError: see `start.load`.
        ConfigError: see `start.load`.
        DataError: see `outline` and `lengths.fit`.
    """
    outlined = outline(config, asked, rooms)
    teaches = config.warm_start is not None and config.warm_start.steps > 0
    rooms = [rooms[0].model_copy(update={"teaches_references": teaches}), *rooms[1:]]
    return outlined, lengths.fit_all(outlined, asked, rooms)


def complete(
    config: PolicyConfig, outlined: Denoiser, train: pa.Table, length: int, device: torch.device
) -> PolicyState:
    """Returns the policy of an outline, ready for its first round.

    Args:
        outlined: what `outline` gave; a tiny one becomes the policy.
        train: problems whose answers a tiny policy is warm-started on.
        length: tokens of a completion, to which the warm start fills these answers.

    Raises:
        CheckpointError: see `start.load`.
        ConfigError: see `start.load`.
        DataError: an answer is longer than `length`, or has a character that the tiny policy cannot write.
    """
    if config.model is not None:
        return checkpoint.base_state(*start.load(config, device))
    assert config.warm_start is not None  # the configuration sees to it
    denoiser = outlined.to(device)
    warm_start(denoiser, train, config.warm_start, length, config.seed)
    if config.adapter is not None:
        denoiser.attach_adapter(config.adapter, config.seed)
    return checkpoint.base_state(denoiser)
