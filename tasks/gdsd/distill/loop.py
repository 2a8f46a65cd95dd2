"""The update loop of a distillation epoch: the scored completions of a round, a few optimizer steps."""

import logging
import math
import time
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path

import pyarrow as pa
import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from tasks.gdsd.config.train import DistillConfig
from tasks.gdsd.denoiser import checkpoint, devices
from tasks.gdsd.denoiser.checkpoint import PolicyState
from tasks.gdsd.denoiser.checkpoint_record import CheckpointRecord
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.distill import fsdp, memory, optimizer_state, processes
from tasks.gdsd.distill.batch import Batch, collate
from tasks.gdsd.distill.forward import hidden_states, negative_log_likelihood, spread
from tasks.gdsd.distill.microbatch import Fixed, MicroBatch, refine, share, smallest
from tasks.gdsd.distill.resume import Cut, InterimRecord, Keeper
from tasks.gdsd.distill.token_scores import log_prob, read, top_tokens
from tasks.gdsd.errors import ConfigError, NonFiniteError
from tasks.gdsd.objectives import LossMetrics, Scores, objective_loss
from tasks.gdsd.records import EpochStats, StepStats
from tasks.gdsd.transient import is_shortage

logger = logging.getLogger(__name__)
METRICS = ("loss", "nll", *(field.name for field in fields(LossMetrics)))


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
    keeper: Keeper | None = None,
) -> tuple[PolicyState, EpochStats]:
    """Trains a policy on a round's scored completions and returns its new state, which takes the place of the old.

    Views are drawn once per epoch and shared by all inner steps, so the first step's readouts, detached, are the old
    policy's and no second forward is needed. Groups without spread carry no signal and are left out. `base` is read
    where the objective needs a reference and the policy has no adapter to switch off.

    Several processes may share the epoch, see `parallel`: all call this with the same arguments, each computes the
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
    denoiser, objective = state.denoiser.eval(), config.objective  # no dropout, neither in old nor in new scores
    if (objective.candidates or 0) > denoiser.vocabulary_size:
        raise ConfigError(
            f"distill.objective.top_k {objective.candidates} exceeds the {denoiser.vocabulary_size} tokens of the "
            "policy's vocabulary; lower it, or use the readout 'centred'"
        )
    compute = config.compute
    accelerator = processes.accelerator(denoiser.device, compute)
    models = [denoiser] if base is None else [denoiser, base.denoiser.eval()]
    batch = collate(scored, denoiser, objective, group_size=group_size, round_index=round_index, seed=seed)
    updates, in_a_row = state.record.updates, state.record.skipped_in_a_row
    steps: list[StepStats] = []
    left = None if keeper is None or batch is None else keeper.take(accelerator)
    if left is not None:
        updates, in_a_row, steps = left.record.updates, left.record.skipped_in_a_row, list(left.record.steps)
        began -= left.record.seconds
    with fsdp.sharded(models, accelerator) if compute.sharding == "fsdp" else nullcontext():
        optimizer = torch.optim.AdamW(
            [parameter for _, parameter in denoiser.trainable()],
            config.learning_rate,
            (config.adam_beta1, config.adam_beta2),
            weight_decay=config.weight_decay,
        )
        start, state.optimizer = dict(state.optimizer), {}
        if left is None:
            optimizer_state.restore(optimizer, denoiser, start)
        del start
        if batch is not None:
            epoch = _Epoch(models, optimizer, batch, config, group_size, accelerator)
            if left is not None:
                if len(steps) < config.inner_steps:
                    epoch.read_start(left.record.cuts[accelerator.process_index])
                optimizer_state.restore_weights(denoiser, left.weights)
                optimizer_state.restore(optimizer, denoiser, left.moments)
                del left
            for _ in tqdm(
                range(len(steps), config.inner_steps),
                desc=f"distilling round {round_index + 1}",
                disable=None if accelerator.is_main_process else True,
                leave=False,
                initial=len(steps),
                total=config.inner_steps,
            ):
                stats = epoch.update(learning_rate(config, updates))
                steps.append(stats)
                in_a_row = in_a_row + 1 if stats.skipped else 0
                updates += not stats.skipped
                if in_a_row >= config.max_skipped:
                    break
                if keeper is not None and keeper.due(accelerator):
                    reached = InterimRecord(
                        epoch=keeper.epoch,
                        updates=updates,
                        skipped_in_a_row=in_a_row,
                        steps=steps,
                        seconds=time.monotonic() - began,
                        cuts=processes.gather(epoch.cut(), accelerator),
                    )
                    keeper.keep(reached, denoiser, optimizer, accelerator)
        slots = optimizer_state.collect(optimizer, denoiser, first=accelerator.is_main_process)
    if in_a_row >= config.max_skipped and batch is not None:
        if accelerator.is_main_process:
            _save_evidence(evidence, denoiser, batch)
        raise NonFiniteError(
            f"{in_a_row} updates in a row were not finite in round {round_index + 1} (loss {steps[-1].loss}, "
            f"gradient norm {steps[-1].grad_norm}). Lower distill.learning_rate ({config.learning_rate}) or the "
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
        device=devices.name(denoiser.device),
        processes=accelerator.num_processes,
        parent=parent,
        ended_unix_seconds=time.time(),
    )
    return PolicyState(denoiser, record, slots), stats_of_epoch


def learning_rate(config: DistillConfig, updates: int) -> float:
    """Returns the rate of the next update: a linear rise, a plateau, then a fall as 1 / sqrt(updates).

    It depends on the updates so far and never on the length of the run, so a run can be extended.
    """
    rise = min(1.0, (updates + 1) / (config.warmup_steps + 1))
    fall = min(1.0, math.sqrt(config.decay_after / max(updates, 1)))
    return config.learning_rate * rise * fall


class _Epoch:
    """The updates on one batch, in micro-batches of the groups that are this process's."""

    def __init__(
        self,
        models: list[Denoiser],  # the policy, and the base where there is a second one
        optimizer: torch.optim.AdamW,
        batch: Batch,
        config: DistillConfig,
        group_size: int,
        accelerator: Accelerator,
    ):
        compute = config.compute
        self.denoiser, self.base = models[0], models[1] if len(models) > 1 else None
        self.optimizer, self.config, self.accelerator = optimizer, config, accelerator
        self.recompute, self.together = compute.gradient_checkpointing, compute.sharding == "fsdp"
        self.trainable = [parameter for _, parameter in self.denoiser.trainable()]
        self.judged = int(batch.judged.sum())  # of all processes, so that their sums are the mean over all
        self.group_size = group_size
        self.unit = smallest(config.objective, group_size)
        self.tokens = compute.micro_batch_tokens
        mine = share(batch, group_size, accelerator.process_index, accelerator.num_processes)
        self.parts = MicroBatch(mine).cut(self.tokens, self.unit)
        if self.together:  # all processes need as many micro-batches as the one with the most
            most = max(processes.gather(len(self.parts), accelerator))
            spare = MicroBatch(batch.rows(slice(self.unit)), counts=False)
            self.parts += [spare] * (most - len(self.parts))
        self.first: list[int] | None = None  # the micro-batches of the first update

    def cut(self) -> Cut:
        """Returns how the completions are cut by now."""
        now = self._sizes()
        return Cut(tokens=self.tokens, first=now if self.first is None else self.first, now=now)

    def read_start(self, cut: Cut) -> None:
        """Reads what the first update read of the start policy, as an attempt before this one did.

        It is computed as it was then, gradients included, so that it is the same bit for bit.
        """
        self.parts = refine(self.parts, cut.first)
        self._differentiate_all()
        self.optimizer.zero_grad(set_to_none=True)
        self.first = self._sizes()
        if self.first == cut.first:  # else there is less memory than there was
            self.parts, self.tokens = refine(self.parts, cut.now), cut.tokens

    def _sizes(self) -> list[int]:
        return [len(part) for part in self.parts]

    def update(self, learning_rate: float) -> StepStats:
        """Takes one optimizer step, or skips it when the loss or the gradient is not finite.

        Processes compute apart and meet once, at the end: what decides from there on is the same in all of them.
        """
        means, norm = self._differentiate_all()
        self.first = self._sizes() if self.first is None else self.first
        finite = math.isfinite(means["loss"]) and math.isfinite(norm)
        if finite:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            self.optimizer.step()
        elif self.accelerator.is_main_process:
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
            nll=_finite(means.get("nll")),
        )

    def _differentiate_all(self) -> tuple[dict[str, float], float]:
        """Leaves the clipped gradient of the mean loss in the parameters; returns mean metrics and the norm before."""
        self.optimizer.zero_grad(set_to_none=True)
        sums, shortage = {}, None
        try:
            sums = self._accumulate()
        except memory.OutOfMemoryError as error:
            shortage = error  # not raised before the others know, who would wait for this process
        present = [parameter.grad is not None for parameter in self.trainable]
        values = [sums.get(name, 0.0) for name in METRICS]
        known = [name in sums for name in METRICS]
        counts = [shortage is not None, *known, *present]
        total = processes.add_up([*values, *map(float, counts)], self.accelerator)
        totals, (short, *rest) = total[: len(METRICS)], [count > 0 for count in total[len(METRICS) :]]
        if shortage is not None:
            raise shortage
        if short:
            raise memory.OutOfMemoryError("another process ran out of memory, see there")
        known, present = rest[: len(METRICS)], rest[len(METRICS) :]
        processes.add_up_gradients(self.trainable, present, self.accelerator)
        norm = fsdp.clip(self.trainable, self.config.max_grad_norm, self.accelerator)
        means = {name: value / self.judged for name, value, here in zip(METRICS, totals, known, strict=True) if here}
        return means, norm

    def _accumulate(self) -> dict[str, float]:
        """Adds up the gradients of all micro-batches, and returns the sums of their metrics.

        Where a micro-batch does not fit the memory, it and those that are still to come are cut to half its size, and
        it is done again. It has left nothing behind: its gradients are added to the others' only once they are whole.
        """
        sums: dict[str, float] = {}
        gradients: list[Tensor | None] = [None] * len(self.trainable)
        done = 0
        while done < len(self.parts):
            shortage: str | None = None
            try:
                fixed, found = self._differentiate(self.parts[done])
            except (RuntimeError, MemoryError) as error:
                if not is_shortage(error):
                    raise
                shortage = str(error)
            if shortage is not None:  # by now the error is gone, and with it all that it holds
                self.optimizer.zero_grad(set_to_none=True)
                self._halve(done, shortage)
                continue
            self.parts[done] = replace(self.parts[done], fixed=fixed)
            for name, value in found.items():
                sums[name] = sums.get(name, 0.0) + value
            for index, parameter in enumerate(self.trainable):
                gradients[index] = _sum(gradients[index], parameter.grad)
                parameter.grad = None
            done += 1
        for parameter, gradient in zip(self.trainable, gradients, strict=True):
            parameter.grad = gradient
        return sums

    def _halve(self, failed: int, shortage: str) -> None:
        """Cuts the micro-batches from the failed one on, whose size is halved.

        Raises:
            OutOfMemoryError: the failed one cannot be cut.
            SharedShortageError: other processes are in the middle of the same micro-batch.
        """
        memory.release(self.denoiser.device)
        part = self.parts[failed]
        if self.together and len(part) > self.unit:
            raise memory.SharedShortageError(f"{part.tokens} tokens do not fit the memory ({shortage})")
        if len(part) <= self.unit:
            kind = memory.SharedShortageError if self.together else memory.OutOfMemoryError
            raise kind(
                f"{part.tokens} tokens, {len(part)} completions in all views, do not fit the memory, and "
                f"{memory.SMALLEST} ({shortage}). Set distill.compute.gradient_checkpointing, or lower the number of "
                "mask pairs, the length of completions, or the group size where completions are compared within groups."
            )
        self.tokens = min(self.tokens, part.tokens) // 2
        rest = [smaller for part in self.parts[failed:] for smaller in part.cut(self.tokens, self.unit)]
        self.parts = [*self.parts[:failed], *rest]
        logger.warning(
            "%d tokens do not fit the memory; going on with micro-batches of %d (%s)",
            part.tokens,
            self.tokens,
            shortage,
        )

    def _differentiate(self, part: MicroBatch) -> tuple[Fixed, dict[str, float]]:
        """Leaves a micro-batch's share of the gradient in the parameters; returns what stays, and sums of metrics."""
        with memory.recomputed(self.denoiser, self.recompute):
            scores, fixed = self._scores(part)
            loss, metrics = objective_loss(scores, part.batch.advantages, self.config.objective)
            self.accelerator.backward(loss / self.judged if part.counts else loss * 0)
        if not part.counts:
            return fixed, {}
        log_probs = scores.theta if self.config.objective.reads == "log_prob" else scores.theta_log_prob
        nll = None if log_probs is None else negative_log_likelihood(log_probs, scores.hidden, scores.judged)
        sums = {"loss": loss.detach(), "nll": nll, **vars(metrics)}
        return fixed, {name: float(value) for name, value in sums.items() if value is not None}

    def _scores(self, part: MicroBatch) -> tuple[Scores, Fixed]:
        """Reads a micro-batch. The first time, the policy in training is the old one: its readouts serve as both."""
        batch, objective, fixed = part.batch, self.config.objective, part.fixed
        states, tokens = self._states(self.denoiser, batch)
        head, hidden = self.denoiser.head(), batch.views.hidden
        candidates = None if fixed is None else fixed.candidates
        if fixed is None and objective.candidates is not None:
            candidates = top_tokens(states, head, objective.candidates)
        theta = spread(read(objective.reads, states, head, tokens, candidates), hidden)
        theta_log_prob = spread(log_prob(states, head, tokens), hidden) if objective.needs_log_prob else None
        if fixed is None:
            ref, ref_log_prob = self._reference(batch, candidates)
            fixed = Fixed(candidates, theta.detach(), ref, ref_log_prob)
        scores = Scores(
            theta=theta,
            old=fixed.old,
            ref=fixed.ref,
            theta_log_prob=theta_log_prob,
            ref_log_prob=fixed.ref_log_prob,
            hidden=hidden,
            lengths=batch.views.counted.sum(1),
            judged=batch.judged,
            group_size=self.unit,
        )
        return scores, fixed

    @torch.no_grad()
    def _reference(
        self, batch: Batch, candidates: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:  # (C, B, L) each
        """Reads the base policy in the same views: the policy without its adapter, or a second one; None if not needed.

        Raises:
            ValueError: it is needed, but the policy has no adapter and no base was given.
        """
        objective, base, hidden = self.config.objective, self.base, batch.views.hidden
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
                return None, spread(log_prob(states, model.head(), tokens), hidden)
            return spread(read(objective.reads, states, model.head(), tokens, candidates), hidden), None

    def _states(self, denoiser: Denoiser, batch: Batch) -> tuple[Tensor, Tensor]:  # (R, D), (R,) int64
        """Runs the denoiser in the configured precision; what is made of its states is not rounded."""
        with self.accelerator.autocast():
            return hidden_states(denoiser, batch.prompts, batch.attention, batch.completions, batch.views)


def _sum(total: Tensor | None, more: Tensor | None) -> Tensor | None:
    """Adds in place, since a sum of its own could run out of memory."""
    return more if total is None else total if more is None else total.add_(more)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _save_evidence(folder: Path, denoiser: Denoiser, batch: Batch) -> None:
    """Keeps what is needed to reproduce a non-finite update."""
    folder.mkdir(parents=True, exist_ok=True)
    denoiser.save(folder)
    save_file({name: tensor.contiguous() for name, tensor in batch.tensors().items()}, folder / "batch.safetensors")
