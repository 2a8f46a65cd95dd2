"""The update loop of a distillation epoch: the scored completions of a round, a few optimizer steps."""

import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from tasks.gdsd import checkpoint, masking, seeds
from tasks.gdsd.checkpoint import CheckpointRecord, PolicyState
from tasks.gdsd.config import DistillConfig
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.errors import DataError, NonFiniteError
from tasks.gdsd.objectives import Scores, gdsd_loss
from tasks.gdsd.records import EpochStats, StepStats
from tasks.gdsd.sampler import left_pad
from tasks.gdsd.scoring import score_completions

logger = logging.getLogger(__name__)
SLOTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True)
class Batch:
    """Whole groups of completions on the device."""

    prompts: Tensor  # (B, S) int64, left-padded
    attention: Tensor  # (B, S) bool
    completions: Tensor  # (B, L) int64
    advantages: Tensor  # (B,) float32, 0 where there is none
    judged: Tensor  # (B,) bool, False where there is no advantage: such a completion is left out of the loss
    masks: Tensor  # (K, B, L) bool

    def part(self, rows: slice) -> "Batch":
        return Batch(
            self.prompts[rows],
            self.attention[rows],
            self.completions[rows],
            self.advantages[rows],
            self.judged[rows],
            self.masks[:, rows],
        )


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

    Masks are drawn once per epoch and shared by all inner steps, so the first step's scores, detached, are the old
    policy's and no second forward is needed. Groups without spread carry no signal and are left out.

    Raises:
        DataError: the table's completions differ in length.
        NonFiniteError: `max_skipped` updates in a row were not finite; weights and batch are then in `evidence`.
    """
    began = time.monotonic()
    accelerator = Accelerator(cpu=state.denoiser.device.type == "cpu")
    denoiser = state.denoiser.eval()  # no dropout, neither in old nor in new scores
    optimizer = torch.optim.AdamW(
        denoiser.parameters(),
        config.learning_rate,
        (config.adam_beta1, config.adam_beta2),
        weight_decay=config.weight_decay,
    )
    _restore(optimizer, denoiser, state.optimizer)
    batch = collate(scored, denoiser, config, group_size=group_size, round_index=round_index, seed=seed)
    updates, in_a_row = state.record.updates, state.record.skipped_in_a_row
    steps: list[StepStats] = []
    if batch is not None:
        parts = _parts(len(batch.advantages), config.micro_batch, group_size)
        ref = _reference_scores(base, batch, parts, config)
        old: list[Tensor] = []  # per part, filled by the first step
        for _ in tqdm(range(config.inner_steps), desc=f"distilling round {round_index + 1}", disable=None, leave=False):
            rate = learning_rate(config, updates)
            stats = _update(accelerator, denoiser, optimizer, batch, parts, old, ref, config, group_size, rate)
            steps.append(stats)
            in_a_row = in_a_row + 1 if stats.skipped else 0
            updates += not stats.skipped
            if in_a_row >= config.max_skipped:
                _save_evidence(evidence, denoiser, batch)
                raise NonFiniteError(
                    f"{in_a_row} updates in a row were not finite in round {round_index + 1} (loss {stats.loss}, "
                    f"gradient norm {stats.grad_norm}). Lower distill.learning_rate ({config.learning_rate}) or "
                    f"distill.objective.guidance ({config.objective.guidance})."
                )
    record = CheckpointRecord(
        family=denoiser.family,
        round=round_index + 1,
        updates=updates,
        skipped_in_a_row=in_a_row,
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


def collate(
    scored: pa.Table, denoiser: Denoiser, config: DistillConfig, *, group_size: int, round_index: int, seed: int
) -> Batch | None:
    """Puts the groups that carry a signal on the device and draws their masks; None where no group does.

    Raises:
        DataError: the completions differ in length.
    """
    rows = scored.to_pylist()
    groups = [rows[start : start + group_size] for start in range(0, len(rows), group_size)]
    rows = [row for group in groups if any(row["advantage"] for row in group) for row in group]
    if not rows:
        return None
    lengths = {len(row["completion_ids"]) for row in rows}
    if len(lengths) != 1:
        raise DataError(f"completions of one round must have one length, but these occur: {sorted(lengths)}")
    device, objective = denoiser.device, config.objective
    prompts, attention = left_pad([row["prompt_ids"] for row in rows], denoiser.pad_id, device)
    share = objective.share_masks
    keys = torch.tensor(
        [seeds.key(seed, "masks", round_index, row["prompt_id"], -1 if share else row["sample"]) for row in rows],
        device=device,
    )
    if objective.mask_source == "trajectory":
        unmasked_at = torch.tensor([row["unmasked_at"] for row in rows], device=device)
        masks = masking.trajectory_masks(keys, unmasked_at, objective.mask_pairs)
    else:
        masks = masking.random_masks(keys, lengths.pop(), objective.mask_pairs)
    return Batch(
        prompts=prompts,
        attention=attention,
        completions=torch.tensor([row["completion_ids"] for row in rows], device=device),
        advantages=torch.tensor([row["advantage"] or 0.0 for row in rows], dtype=torch.float32, device=device),
        judged=torch.tensor([row["advantage"] is not None for row in rows], device=device),
        masks=masks,
    )


def _parts(sequences: int, micro_batch: int, group_size: int) -> list[slice]:
    """Cuts a batch into micro-batches of whole groups, at least one group each."""
    size = max(micro_batch // group_size, 1) * group_size
    return [slice(start, min(start + size, sequences)) for start in range(0, sequences, size)]


def _update(
    accelerator: Accelerator,
    denoiser: Denoiser,
    optimizer: torch.optim.AdamW,
    batch: Batch,
    parts: list[slice],
    old: list[Tensor],
    ref: list[Tensor | None],
    config: DistillConfig,
    group_size: int,
    learning_rate: float,
) -> StepStats:
    """Takes one optimizer step, or skips it when the loss or the gradient is not finite. Fills `old` the first time."""
    optimizer.zero_grad(set_to_none=True)
    terms = config.objective.mask_pairs * int(batch.judged.sum())
    loss_sum = torch.zeros((), device=denoiser.device)
    residual_sum, shift_sum = loss_sum.clone(), loss_sum.clone()
    for index, rows in enumerate(parts):
        part = batch.part(rows)
        theta = _scores(denoiser, part, config)
        if index == len(old):
            old.append(theta.detach())
        scores = Scores(theta=theta, old=old[index], ref=ref[index], judged=part.judged, group_size=group_size)
        loss, metrics = gdsd_loss(scores, part.advantages, config.objective)
        accelerator.backward(loss / terms)
        loss_sum += loss.detach()
        residual_sum += metrics.residual_abs
        shift_sum += metrics.shift_abs
    norm = torch.nn.utils.clip_grad_norm_(denoiser.parameters(), config.max_grad_norm)
    finite = bool(torch.isfinite(loss_sum) & torch.isfinite(norm))
    if finite:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.step()
    else:
        logger.warning("an update was skipped: loss %s, gradient norm %s", loss_sum.item() / terms, norm.item())
    return StepStats(
        loss=_finite(loss_sum.item() / terms),
        residual_abs=_finite(residual_sum.item() / terms),
        shift_abs=_finite(shift_sum.item() / terms),
        grad_norm=_finite(norm.item()),
        learning_rate=learning_rate,
        skipped=not finite,
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _scores(denoiser: Denoiser, part: Batch, config: DistillConfig) -> Tensor:  # (K, B)
    return score_completions(
        denoiser, part.prompts, part.attention, part.completions, part.masks, config.objective.readout
    )


@torch.no_grad()
def _reference_scores(
    base: PolicyState | None, batch: Batch, parts: list[slice], config: DistillConfig
) -> list[Tensor | None]:
    """Scores of the base policy under the same masks, one entry per part; None where it does not count."""
    if config.objective.reference_weight == 0:
        return [None] * len(parts)
    if base is None:
        raise ValueError(f"reference_weight is {config.objective.reference_weight}, but no base policy was given")
    return [_scores(base.denoiser.eval(), batch.part(rows), config) for rows in parts]


def _restore(optimizer: torch.optim.AdamW, denoiser: Denoiser, tensors: dict[str, Tensor]) -> None:
    """Gives a fresh optimizer the moments of the previous epoch."""
    if not tensors:
        return
    for name, parameter in denoiser.named_parameters():
        optimizer.state[parameter] = {slot: tensors[f"{name}.{slot}"].clone() for slot in SLOTS}


def _slots(optimizer: torch.optim.AdamW, denoiser: Denoiser) -> dict[str, Tensor]:
    """Returns the optimizer's moments under the names of their parameters; empty before the first update."""
    return {
        f"{name}.{slot}": optimizer.state[parameter][slot]
        for name, parameter in denoiser.named_parameters()
        if parameter in optimizer.state
        for slot in SLOTS
    }


def _save_evidence(folder: Path, denoiser: Denoiser, batch: Batch) -> None:
    """Keeps what is needed to reproduce a non-finite update."""
    folder.mkdir(parents=True, exist_ok=True)
    denoiser.save(folder)
    tensors = {name: tensor.contiguous() for name, tensor in vars(batch).items()}
    save_file(tensors, folder / "batch.safetensors")
