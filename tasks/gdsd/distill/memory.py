"""Tells when memory does not suffice, and helps an epoch to need less of it."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.errors import GdsdError


class OutOfMemoryError(GdsdError, MemoryError):
    """The smallest micro-batch does not fit: the message has its size and what can be done."""


class SharedShortageError(RuntimeError):
    """A micro-batch does not fit one of the processes that compute each together: all have to start again.

    No error of the project, after which a process ends in good order while the others wait for it.

    Args:
        message: what happened, and what can be done.
        tokens: of the micro-batch.
        smallest: whether it cannot be cut, so that starting again does not help.
    """

    def __init__(self, message: str, tokens: int, smallest: bool):
        super().__init__(message, tokens, smallest)
        self.tokens, self.smallest = tokens, smallest

    def __str__(self) -> str:
        return str(self.args[0])


def release(device: torch.device) -> None:
    """Gives back what a failed computation held; its exception, which holds the computation, must be gone."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def recomputed(denoiser: Denoiser, wanted: bool) -> Iterator[None]:
    """Keeps only the inputs of the denoiser's blocks, and computes what is inside again in the backward pass.

    The library does so only for blocks in training mode. That is switched on for the blocks alone: the modules inside
    them, where dropout is, stay in evaluation.
    """
    if not wanted:
        yield
        return
    blocks = [module for module in denoiser.network.modules() if isinstance(module, GradientCheckpointingLayer)]
    # There is no dropout, hence no random state to restore.
    options = {"use_reentrant": False, "preserve_rng_state": False}
    denoiser.network.activation_checkpointing_enable(options)
    try:
        for block in blocks:
            block.training = True
        yield
    finally:
        for block in blocks:
            block.training = False
        denoiser.network.activation_checkpointing_disable()  # type: ignore[no-untyped-call]  # transformers' own
