"""From completions and views to readouts of their hidden tokens, and to all readouts that an objective asks for."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from tasks.gdsd.config.objective import ObjectiveConfig
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.distill.batch import Batch
from tasks.gdsd.distill.masking import Views
from tasks.gdsd.distill.microbatch import Fixed, MicroBatch
from tasks.gdsd.distill.token_scores import log_prob, read, top_tokens
from tasks.gdsd.objectives import Scores


def hidden_states(
    denoiser: Denoiser,
    prompts: Tensor,  # (B, S) int64, left-padded
    attention: Tensor,  # (B, S) bool
    completions: Tensor,  # (B, L) int64
    views: Views,
) -> tuple[Tensor, Tensor]:  # (R, D), (R,) int64
    """Returns the states of the rows that predict a token to be read, in the order of `views.read`, and those tokens.

    All views go through the denoiser as one batch.
    """
    count = len(views.hidden)
    hidden = (views.hidden | ~views.counted).flatten(0, 1)  # (C * B, L)
    tokens = completions.repeat(count, 1)  # (C * B, L)
    prefix = prompts.repeat(count, 1)  # (C * B, S)
    if views.prompt_hidden is not None:
        prefix = prefix.masked_fill(views.prompt_hidden.flatten(0, 1), denoiser.mask_id)
    ids = torch.cat([prefix, tokens.masked_fill(hidden, denoiser.mask_id)], dim=1)
    attend = torch.cat([attention, torch.ones_like(completions, dtype=torch.bool)], dim=1).repeat(count, 1)
    read = views.read.flatten(0, 1)  # (C * B, L)
    return denoiser(ids, attend, read), tokens[read]


def spread(
    values: Tensor,  # (R,)
    read: Tensor,  # (C, B, L) bool, R of them true
) -> Tensor:  # (C, B, L): 0 where not read
    """Puts one value per token that was read in its place."""
    return values.new_zeros(read.shape).masked_scatter(read, values)


@torch.no_grad()
def negative_log_likelihood(
    log_probs: Tensor,  # (C, B, L), 0 where not read
    read: Tensor,  # (C, B, L) bool
    judged: Tensor,  # (B,) bool
    weight: Tensor | None = None,  # (C, B): of what each view reads
) -> Tensor:  # ()
    """Sums over the judged completions the mean -log p of a token in the views that read it.

    Of tokens that the policy drew itself this falls with its entropy, which no readout gives.
    """
    sums, sizes = -log_probs.sum(2), read.sum(2)  # (C, B) each
    if weight is not None:
        sums, sizes = sums * weight, sizes * weight
    means = sums.sum(0) / sizes.sum(0).clamp(min=1)  # (B,)
    return means.where(judged, 0.0).sum()


class Reader:
    """Reads completions as an objective asks for."""

    def __init__(
        self,
        denoiser: Denoiser,  # the policy in training
        base: Denoiser | None,  # None where it is the policy without its adapter, or is not needed
        objective: ObjectiveConfig,
        autocast: Callable[[], AbstractContextManager[None]],  # the precision inside the denoiser
    ):
        self.denoiser, self.base, self.objective, self.autocast = denoiser, base, objective, autocast

    def scores(self, part: MicroBatch, group_size: int) -> tuple[Scores, Fixed]:
        """Reads a micro-batch. The first time, the policy in training is the old one: its readouts serve as both."""
        batch, objective, fixed = part.batch, self.objective, part.fixed
        states, tokens = self._states(self.denoiser, batch)
        head, places = self.denoiser.head(), batch.views.read
        candidates = None if fixed is None else fixed.candidates
        if fixed is None and objective.candidates is not None:
            candidates = top_tokens(states, head, objective.candidates)
        theta = spread(read(objective.reads, states, head, tokens, candidates), places)
        theta_log_prob = spread(log_prob(states, head, tokens), places) if objective.needs_log_prob else None
        if fixed is None:
            ref, ref_log_prob = self._reference(batch, candidates)
            fixed = Fixed(candidates, theta.detach(), ref, ref_log_prob)
        scores = Scores(
            theta=theta,
            old=fixed.old,
            ref=fixed.ref,
            theta_log_prob=theta_log_prob,
            ref_log_prob=fixed.ref_log_prob,
            read=places,
            lengths=batch.views.counted.sum(1),
            judged=batch.judged,
            group_size=group_size,
            weight=batch.views.weight,
        )
        return scores, fixed

    @torch.no_grad()
    def _reference(
        self, batch: Batch, candidates: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:  # (C, B, L) each
        """Reads the base: what the objective reads, or log-probabilities where it needs those; None where nothing.

        Raises:
            ValueError: it is needed, but the policy has no adapter and no base was given.
        """
        objective, base, places = self.objective, self.base, batch.views.read
        if not objective.needs_reference:
            return None, None
        if base is None and not self.denoiser.has_adapter:
            raise ValueError(
                f"{type(objective).__name__} reads the base policy, but the policy has no adapter and no base was given"
            )
        with self.denoiser.base_only() if base is None else nullcontext():
            model = self.denoiser if base is None else base
            states, tokens = self._states(model, batch)
            if objective.needs_log_prob:  # then nothing else of the base is
                return None, spread(log_prob(states, model.head(), tokens), places)
            return spread(read(objective.reads, states, model.head(), tokens, candidates), places), None

    def _states(self, denoiser: Denoiser, batch: Batch) -> tuple[Tensor, Tensor]:  # (R, D), (R,) int64
        """Runs the denoiser in the configured precision; what is made of its states is not rounded."""
        with self.autocast():
            return hidden_states(denoiser, batch.prompts, batch.attention, batch.completions, batch.views)
