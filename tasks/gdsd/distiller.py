"""The update loop of a distillation epoch: the scored completions of a round, a few optimizer steps."""

import logging
import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from tasks.gdsd import checkpoint
from tasks.gdsd.batch import Batch, collate
from tasks.gdsd.checkpoint import CheckpointRecord, PolicyState
from tasks.gdsd.config import DistillConfig
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.errors import ConfigError, NonFiniteError
from tasks.gdsd.objective_config import ObjectiveConfig
from tasks.gdsd.objectives import Scores, objective_loss
from tasks.gdsd.readout import log_prob, read, top_tokens
from tasks.gdsd.records import EpochStats, StepStats
from tasks.gdsd.scoring import hidden_states, spread

logger = logging.getLogger(__name__)
SLOTS = ("exp_avg", "exp_avg_sq", "step")


def distill(
    state: PolicyState,
    base: PolicyState | None,
    scored: pa.Table,
    config: DistillConfig,
    *,
    round_index: int,
    group_size: int,
    seed: int,
    parent: str,
    evidence: Path,
) -> tuple[PolicyState, EpochStats]:
    """Trains a policy on a round's scored completions and returns its new state.

    Views are drawn once per epoch and shared by all inner steps, so the first step's readouts, detached, are the old
    policy's and no second forward is needed. Groups without spread carry no signal and are left out. `base` is read
    where the objective needs a reference and the policy has no adapter to switch off.

    Raises:
        ConfigError: `top_k` exceeds the vocabulary.
        DataError: the table's completions differ in length.
        NonFiniteError: `max_skipped` updates in a row were not finite; weights and batch are then in `evidence`.
    """
    began = time.monotonic()
    denoiser, objective = state.denoiser.eval(), config.objective  # no dropout, neither in old nor in new scores
    if (objective.candidates or 0) > denoiser.vocabulary_size:
        raise ConfigError(
            f"distill.objective.top_k {objective.candidates} exceeds the {denoiser.vocabulary_size} tokens of the "
            "policy's vocabulary; lower it, or use the readout 'centred'"
        )
    optimizer = torch.optim.AdamW(
        [parameter for _, parameter in denoiser.trainable()],
        config.learning_rate,
        (config.adam_beta1, config.adam_beta2),
        weight_decay=config.weight_decay,
    )
    _restore(optimizer, denoiser, state.optimizer)
    batch = collate(scored, denoiser, objective, group_size=group_size, round_index=round_index, seed=seed)
    updates, in_a_row = state.record.updates, state.record.skipped_in_a_row
    steps: list[StepStats] = []
    if batch is not None:
        epoch = _Epoch(denoiser, None if base is None else base.denoiser.eval(), optimizer, batch, config, group_size)
        for _ in tqdm(range(config.inner_steps), desc=f"distilling round {round_index + 1}", disable=None, leave=False):
            stats = epoch.update(learning_rate(config, updates))
            steps.append(stats)
            in_a_row = in_a_row + 1 if stats.skipped else 0
            updates += not stats.skipped
            if in_a_row >= config.max_skipped:
                _save_evidence(evidence, denoiser, batch)
                raise NonFiniteError(
                    f"{in_a_row} updates in a row were not finite in round {round_index + 1} (loss {stats.loss}, "
                    f"gradient norm {stats.grad_norm}). Lower distill.learning_rate ({config.learning_rate}) or the "
                    f"strength of distill.objective ({objective})."
                )
    record = CheckpointRecord(
        family=denoiser.family,
        round=round_index + 1,
        updates=updates,
        skipped_in_a_row=in_a_row,
        adapter=denoiser.has_adapter,
        parent=parent,
        made_with=checkpoint.versions(),
    )
    stats_of_epoch = EpochStats(
        round=round_index + 1,
        sequences=0 if batch is None else len(batch.advantages),
        steps=steps,
        seconds=time.monotonic() - began,
    )
    return PolicyState(denoiser, record, _slots(optimizer, denoiser)), stats_of_epoch


def learning_rate(config: DistillConfig, updates: int) -> float:
    """Returns the rate of the next update: a linear rise, a plateau, then a fall as 1 / sqrt(updates).

    It depends on the updates so far and never on the length of the run, so a run can be extended.
    """
    rise = min(1.0, (updates + 1) / (config.warmup_steps + 1))
    fall = min(1.0, math.sqrt(config.decay_after / max(updates, 1)))
    return config.learning_rate * rise * fall


def _parts(sequences: int, micro_batch: int, group_size: int) -> list[slice]:
    """Cuts a batch into micro-batches of whole groups, at least one group each."""
    size = max(micro_batch // group_size, 1) * group_size
    return [slice(start, min(start + size, sequences)) for start in range(0, sequences, size)]


@dataclass(frozen=True)
class _Fixed:
    """What the first update reads of a micro-batch and the later ones keep."""

    candidates: Tensor | None  # (R, k): the old policy's likeliest tokens
    old: Tensor  # (C, B, L)
    ref: Tensor | None  # (C, B, L)
    ref_log_prob: Tensor | None  # (C, B, L)


class _Epoch:
    """The updates on one batch, in micro-batches."""

    def __init__(
        self,
        denoiser: Denoiser,
        base: Denoiser | None,
        optimizer: torch.optim.AdamW,
        batch: Batch,
        config: DistillConfig,
        group_size: int,
    ):
        self.accelerator = Accelerator(cpu=denoiser.device.type == "cpu")
        self.denoiser, self.base, self.optimizer, self.config = denoiser, base, optimizer, config
        self.group_size = group_size
        self.judged = int(batch.judged.sum())
        self.parts = [batch.part(rows) for rows in _parts(len(batch.advantages), config.micro_batch, group_size)]
        self.fixed: list[_Fixed | None] = [None] * len(self.parts)

    def update(self, learning_rate: float) -> StepStats:
        """Takes one optimizer step, or skips it when the loss or the gradient is not finite."""
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, float] = {}
        for index, part in enumerate(self.parts):
            loss, metrics = objective_loss(self._scores(index), part.advantages, self.config.objective)
            self.accelerator.backward(loss / self.judged)
            for name, value in {"loss": loss.detach(), **vars(metrics)}.items():
                if value is not None:
                    sums[name] = sums.get(name, 0.0) + float(value)
        trainable = [parameter for _, parameter in self.denoiser.trainable()]
        norm = float(torch.nn.utils.clip_grad_norm_(trainable, self.config.max_grad_norm))
        means = {name: total / self.judged for name, total in sums.items()}
        finite = math.isfinite(means["loss"]) and math.isfinite(norm)
        if finite:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            self.optimizer.step()
        else:
            logger.warning("an update was skipped: loss %s, gradient norm %s", means["loss"], norm)
        return StepStats(
            loss=_finite(means["loss"]),
            residual_abs=_finite(means.get("residual_abs")),
            shift_abs=_finite(means["shift_abs"]),
            clipped=_finite(means.get("clipped")),
            kl_ref=_finite(means.get("kl_ref")),
            grad_norm=_finite(norm),
            learning_rate=learning_rate,
            skipped=not finite,
        )

    def _scores(self, index: int) -> Scores:
        """Reads a micro-batch. The first time, the policy in training is the old one: its readouts serve as both."""
        part, objective, fixed = self.parts[index], self.config.objective, self.fixed[index]
        states, tokens = hidden_states(self.denoiser, part.prompts, part.attention, part.completions, part.views)
        head, hidden = self.denoiser.head(), part.views.hidden
        candidates = None if fixed is None else fixed.candidates
        if fixed is None and objective.candidates is not None:
            candidates = top_tokens(states, head, objective.candidates)
        theta = spread(read(objective.reads, states, head, tokens, candidates), hidden)
        theta_log_prob = spread(log_prob(states, head, tokens), hidden) if objective.needs_log_prob else None
        if fixed is None:
            ref, ref_log_prob = _reference(self.denoiser, self.base, part, candidates, objective)
            fixed = self.fixed[index] = _Fixed(candidates, theta.detach(), ref, ref_log_prob)
        return Scores(
            theta=theta,
            old=fixed.old,
            ref=fixed.ref,
            theta_log_prob=theta_log_prob,
            ref_log_prob=fixed.ref_log_prob,
            hidden=hidden,
            lengths=part.views.counted.sum(1),
            judged=part.judged,
            group_size=self.group_size,
        )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


@torch.no_grad()
def _reference(
    denoiser: Denoiser, base: Denoiser | None, part: Batch, candidates: Tensor | None, objective: ObjectiveConfig
) -> tuple[Tensor | None, Tensor | None]:  # (C, B, L) each
    """Reads the base policy in the same views: the policy without its adapter, or a second model; None if not needed.

    Raises:
        ValueError: it is needed, but the policy has no adapter and no base was given.
    """
    if not objective.needs_reference:
        return None, None
    if base is None and not denoiser.has_adapter:
        raise ValueError(
            f"{type(objective).__name__} reads the base policy, but the policy has no adapter and no base was given"
        )
    with denoiser.base_only() if base is None else nullcontext():
        model = denoiser if base is None else base
        states, tokens = hidden_states(model, part.prompts, part.attention, part.completions, part.views)
        if objective.needs_log_prob:  # then nothing else of the base is
            return None, spread(log_prob(states, model.head(), tokens), part.views.hidden)
        return spread(read(objective.reads, states, model.head(), tokens, candidates), part.views.hidden), None


def _restore(optimizer: torch.optim.AdamW, denoiser: Denoiser, tensors: dict[str, Tensor]) -> None:
    """Gives a fresh optimizer the moments of the previous epoch."""
    if not tensors:
        return
    for name, parameter in denoiser.trainable():
        optimizer.state[parameter] = {slot: tensors[f"{name}.{slot}"].clone() for slot in SLOTS}


def _slots(optimizer: torch.optim.AdamW, denoiser: Denoiser) -> dict[str, Tensor]:
    """Returns the optimizer's moments under the names of their parameters; empty before the first update."""
    return {
        f"{name}.{slot}": optimizer.state[parameter][slot]
        for name, parameter in denoiser.trainable()
        if parameter in optimizer.state
        for slot in SLOTS
    }


def _save_evidence(folder: Path, denoiser: Denoiser, batch: Batch) -> None:
    """Keeps what is needed to reproduce a non-finite update."""
    folder.mkdir(parents=True, exist_ok=True)
    denoiser.save(folder)
    save_file({name: tensor.contiguous() for name, tensor in batch.tensors().items()}, folder / "batch.safetensors")
