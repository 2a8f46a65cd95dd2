"""The update loop of a distillation epoch: the rewarded completions of a round, a few optimizer steps."""

import math
import time
from contextlib import nullcontext
from pathlib import Path

import pyarrow as pa
from safetensors.torch import save_file
from tqdm import tqdm

from tasks.gdsd.config.objective import ObjectiveConfig
from tasks.gdsd.config.train import DistillConfig
from tasks.gdsd.denoiser import checkpoint, devices
from tasks.gdsd.denoiser.checkpoint import PolicyState
from tasks.gdsd.denoiser.checkpoint_record import CheckpointRecord
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.distill import fsdp, processes
from tasks.gdsd.distill.batch import Batch, collate
from tasks.gdsd.distill.resume import Keeper, Reached
from tasks.gdsd.distill.updates import Updates
from tasks.gdsd.errors import ConfigError, NonFiniteError
from tasks.gdsd.records import EpochStats


def distill(
    state: PolicyState,
    base: PolicyState | None,
    rewarded: pa.Table,
    config: DistillConfig,
    *,
    round_index: int,
    group_size: int,
    seed: int,
    parent: str | None,  # digest of the policy as it was saved; None where it was not
    evidence: Path | None,  # None: nothing is kept of updates that are not finite
    keeper: Keeper | None = None,
) -> tuple[PolicyState, EpochStats]:
    """Trains a policy on a round's rewarded completions and returns its new state, which takes the place of the old.

    Views are drawn once per epoch and shared by all inner steps. Groups without spread carry no signal and are left
    out. `base` is read where the objective needs a reference and the policy has no adapter to switch off.

    Several processes may share the epoch, see `launcher`: all call this with the same arguments, each computes the
    gradients of some groups, and all get the same new policy; of moments that are spread, the first gets the whole.

    With a `keeper`, states are kept on the way, and the epoch goes on from what an earlier attempt at it has kept; it
    ends bit for bit as it would have ended then; on several machines, whose order may be another, up to rounding.

    Raises:
        ConfigError: `top_k` exceeds the vocabulary.
        DataError: the table's completions differ in length.
        NonFiniteError: `max_skipped` updates in a row were not finite; weights and batch are then in `evidence`.
        OutOfMemoryError: there is not enough memory for a single completion, or group where it is compared within.
    """
    began = time.monotonic()
    denoiser = state.denoiser.eval()  # no dropout, neither in old nor in new scores
    _check_candidates(config.objective, denoiser)
    accelerator = processes.accelerator(denoiser.device, config.compute)
    batch = collate(rewarded, denoiser, config.objective, group_size=group_size, round_index=round_index, seed=seed)
    reached = Reached(updates=state.record.updates, skipped_in_a_row=state.record.skipped_in_a_row)
    if batch is not None:
        models = [denoiser] if base is None else [denoiser, base.denoiser.eval()]
        with fsdp.sharded(models, accelerator) if config.compute.sharding == "fsdp" else nullcontext():
            updates = Updates(models, batch, config, group_size, accelerator)
            reached = _begin(updates, state, reached, keeper)
            reached = _train(updates, reached, keeper, began, f"distilling round {round_index + 1}")
            if reached.skipped_in_a_row < config.max_skipped:
                updates.settle()
                state.optimizer = updates.moments()
        if reached.skipped_in_a_row >= config.max_skipped:
            if evidence is not None and accelerator.is_main_process:
                _save_evidence(evidence, denoiser, batch)
            raise _not_finite(reached, config, round_index)
    stats = EpochStats(
        round=round_index + 1,
        sequences=0 if batch is None else len(batch.advantages),
        steps=reached.steps,
        seconds=reached.seconds + time.monotonic() - began,
        device=devices.name(denoiser.device),
        processes=accelerator.num_processes,
        parent=parent,
        ended_unix_seconds=time.time(),
    )
    return PolicyState(denoiser, _record(denoiser, reached, round_index, parent), state.optimizer), stats


def learning_rate(config: DistillConfig, updates: int) -> float:
    """Returns the rate of the next update: a linear rise, a plateau, then a fall as 1 / sqrt(updates).

    It depends on the updates so far and never on the length of the run, so a run can be extended.
    """
    rise = min(1.0, (updates + 1) / (config.warmup_steps + 1))
    fall = min(1.0, math.sqrt(config.decay_after / max(updates, 1)))
    return config.learning_rate * rise * fall


def _check_candidates(objective: ObjectiveConfig, denoiser: Denoiser) -> None:
    if (objective.candidates or 0) > denoiser.vocabulary_size:
        raise ConfigError(
            f"distill.objective.top_k {objective.candidates} exceeds the {denoiser.vocabulary_size} tokens of the "
            "policy's vocabulary; lower it, or use the readout 'centred'"
        )


def _begin(updates: Updates, state: PolicyState, reached: Reached, keeper: Keeper | None) -> Reached:
    """Takes over the moments of the epoch before, or all that an earlier attempt at this one has kept.

    Returns:
        How far the epoch has got.
    """
    moments, state.optimizer = dict(state.optimizer), {}  # which are large, and move
    interim = None if keeper is None else keeper.take(updates.accelerator)
    if interim is None:
        updates.begin(moments)
        return reached
    moments.clear()
    updates.go_on(interim)
    return interim.record.reached


def _train(updates: Updates, reached: Reached, keeper: Keeper | None, began: float, title: str) -> Reached:
    """Takes the updates that are left, until too many in a row were not finite; returns how far the epoch has got."""
    config, accelerator = updates.config, updates.accelerator
    for _ in tqdm(
        range(len(reached.steps), config.inner_steps),
        desc=title,
        disable=None if accelerator.is_main_process else True,
        leave=False,
        initial=len(reached.steps),
        total=config.inner_steps,
    ):
        reached = reached.after(updates.take(learning_rate(config, reached.updates)))
        if reached.skipped_in_a_row >= config.max_skipped:
            break
        if keeper is not None and keeper.due(accelerator):
            updates.keep(keeper, reached.in_all(time.monotonic() - began))
    return reached


def _record(denoiser: Denoiser, reached: Reached, round_index: int, parent: str | None) -> CheckpointRecord:
    return CheckpointRecord(
        family=denoiser.family,
        round=round_index + 1,
        updates=reached.updates,
        skipped_in_a_row=reached.skipped_in_a_row,
        adapter=denoiser.has_adapter,
        parent=parent,
        made_with=checkpoint.versions(),
    )


def _not_finite(reached: Reached, config: DistillConfig, round_index: int) -> NonFiniteError:
    last = reached.steps[-1]
    return NonFiniteError(
        f"{reached.skipped_in_a_row} updates in a row were not finite in round {round_index + 1} (loss {last.loss}, "
        f"gradient norm {last.grad_norm}). Lower distill.learning_rate ({config.learning_rate}) or the "
        f"strength of distill.objective ({config.objective})."
    )


def _save_evidence(folder: Path, denoiser: Denoiser, batch: Batch) -> None:
    """Keeps what is needed to reproduce a non-finite update."""
    folder.mkdir(parents=True, exist_ok=True)
    denoiser.save(folder)
    # Views may share what they hide and what they read, which the format refuses.
    save_file({name: tensor.clone() for name, tensor in batch.tensors().items()}, folder / "batch.safetensors")
