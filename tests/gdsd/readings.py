"""Readouts of a denoiser, in the places of the tokens that they are of."""

from torch import Tensor

from tasks.gdsd.config.objective import Readout
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.distill.forward import hidden_states, spread
from tasks.gdsd.distill.masking import Views
from tasks.gdsd.distill.token_scores import read


def readings(
    denoiser: Denoiser,
    prompts: Tensor,  # (B, S)
    attention: Tensor,  # (B, S)
    completions: Tensor,  # (B, L)
    views: Views,
    readout: Readout = "log_prob",
) -> Tensor:  # (C, B, L)
    """What a denoiser says of the tokens that are read, in place."""
    states, tokens = hidden_states(denoiser, prompts, attention, completions, views)
    return spread(read(readout, states, denoiser.head(), tokens), views.read)
