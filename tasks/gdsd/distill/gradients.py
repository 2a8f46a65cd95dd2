"""The gradient of an epoch's loss, summed over micro-batches and then over processes.

A process computes its own micro-batches, and cuts them where memory runs short. Then all processes meet, once in each
update. Whatever is decided after that is the same in all of them.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from accelerate import Accelerator
from torch import Tensor

from tasks.gdsd.config.train import DistillConfig
from tasks.gdsd.distill import memory, processes
from tasks.gdsd.distill.batch import Batch
from tasks.gdsd.distill.forward import Reader, negative_log_likelihood
from tasks.gdsd.distill.microbatch import Cut, Fixed, MicroBatch, refine, share, smallest
from tasks.gdsd.objectives import Scores, objective_loss
from tasks.gdsd.transient import is_shortage

logger = logging.getLogger(__name__)
Visit: TypeAlias = Callable[[MicroBatch], tuple[Fixed, dict[str, float]]]  # returns what stays, and sums of metrics


@dataclass(frozen=True)
class Contribution:
    """What a process's completions add to an update, as it tells the others."""

    sums: dict[str, float]  # the loss and its metrics, over the judged completions
    present: list[bool]  # whether each trained parameter has a gradient
    shortage: str | None = None  # why there is none of this


class Gradients:
    """The completions of this process in micro-batches, and the gradient of all processes' loss."""

    def __init__(
        self,
        reader: Reader,
        batch: Batch,  # of all processes
        config: DistillConfig,
        group_size: int,
        accelerator: Accelerator,
    ):
        compute = config.compute
        self.reader, self.objective, self.accelerator = reader, config.objective, accelerator
        self.recompute, self.together = compute.gradient_checkpointing, compute.sharding == "fsdp"
        self.trainable = [parameter for _, parameter in reader.denoiser.trainable()]
        self.judged = int(batch.judged.sum())  # so that the sums of all processes are the mean over all
        self.unit = smallest(config.objective, group_size)
        self.tokens = compute.micro_batch_tokens
        mine = share(batch, group_size, accelerator.process_index, accelerator.num_processes)
        self.parts = MicroBatch(mine).cut(self.tokens, self.unit)
        if self.together:  # all processes need as many micro-batches as the one with the most
            most = max(processes.gather(len(self.parts), accelerator))
            spare = MicroBatch(batch.rows(slice(self.unit)), counts=False)
            self.parts += [spare] * (most - len(self.parts))
        self.first: list[int] | None = None  # completions of each micro-batch when the start policy was read

    def read_old(self) -> float | None:
        """Reads the policy that made the completions, where another one is trained on them; see `compute`.

        Returns:
            Its mean -log p of a token, where log-probabilities are read.
        """
        return self._means(self._together(self._read)).get("nll")

    def compute(self) -> dict[str, float]:
        """Leaves the gradient of the mean loss in the parameters, and returns the means of the loss and its metrics.

        Raises:
            OutOfMemoryError: a process has not enough memory for the smallest micro-batch; in all processes.
            SharedShortageError: this one has not, and the others are in the middle of the same micro-batch.
        """
        self.clear()
        told = self._together(self._differentiate)
        present = [any(one.present[index] for one in told) for index in range(len(self.trainable))]
        processes.add_up_gradients(self.trainable, present, self.accelerator)
        return self._means(told)

    def _means(self, told: list[Contribution]) -> dict[str, float]:
        names = dict.fromkeys(name for one in told for name in one.sums)
        return {name: sum(one.sums.get(name, 0.0) for one in told) / self.judged for name in names}

    def clear(self) -> None:
        """Drops the gradient."""
        for parameter in self.trainable:
            parameter.grad = None

    def cut(self) -> Cut:
        """Returns how the completions are cut by now."""
        now = self._sizes()
        return Cut(tokens=self.tokens, first=now if self.first is None else self.first, now=now)

    def read_start(self, cut: Cut, averaged: bool) -> None:
        """Reads what was read of the start policy at first, as an attempt before this one did.

        It is computed as it was then, so that it is the same bit for bit: in the first update, with its gradients,
        unless the policy is an average.
        """
        self.parts = refine(self.parts, cut.first)
        if averaged:
            self.read_old()
        else:
            self.compute()
            self.clear()
        if self.first == cut.first:  # else there is less memory than there was
            self.parts, self.tokens = refine(self.parts, cut.now), cut.tokens

    def _sizes(self) -> list[int]:
        return [len(part) for part in self.parts]

    def _together(self, visit: Visit) -> list[Contribution]:
        """Goes through all micro-batches, and returns what came of it in each process.

        Raises:
            OutOfMemoryError: see `compute`.
            SharedShortageError: see `compute`.
        """
        told = processes.gather(self._contribution(visit), self.accelerator)
        if shortages := [one.shortage for one in told if one.shortage is not None]:
            raise memory.OutOfMemoryError(shortages[0])
        if self.first is None:
            self.first = self._sizes()
        return told

    def _contribution(self, visit: Visit) -> Contribution:
        try:
            sums = self._accumulate(visit)
        except memory.OutOfMemoryError as error:  # not raised before the others know, who would wait for this process
            return Contribution({}, [False] * len(self.trainable), str(error))
        return Contribution(sums, [parameter.grad is not None for parameter in self.trainable])

    def _accumulate(self, visit: Visit) -> dict[str, float]:
        """Visits all micro-batches, adds up the gradients that come of it, and returns the sums of the metrics.

        Where a micro-batch does not fit the memory, it and those that are still to come are cut to half its size, and
        it is done again. It has left nothing behind: its gradients are added to the others' only once they are whole.
        """
        sums: dict[str, float] = {}
        gradients: list[Tensor | None] = [None] * len(self.trainable)
        done = 0
        while done < len(self.parts):
            shortage: str | None = None
            try:
                fixed, found = visit(self.parts[done])
            except (RuntimeError, MemoryError) as error:
                if not is_shortage(error):
                    raise
                shortage = str(error)
            if shortage is not None:  # by now the error is gone, and with it all that it holds
                self.clear()
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

    @torch.no_grad()
    def _read(self, part: MicroBatch) -> tuple[Fixed, dict[str, float]]:
        scores, fixed = self.reader.scores(part, self.unit)
        nll = self._surprise(scores) if part.counts else None
        return fixed, {} if nll is None else {"nll": float(nll)}

    def _differentiate(self, part: MicroBatch) -> tuple[Fixed, dict[str, float]]:
        """Leaves a micro-batch's share of the gradient in the parameters; returns what stays, and sums of metrics."""
        with memory.recomputed(self.reader.denoiser, self.recompute):
            scores, fixed = self.reader.scores(part, self.unit)
            loss, metrics = objective_loss(scores, part.batch.advantages, self.objective)
            self.accelerator.backward(loss / self.judged if part.counts else loss * 0)
        if not part.counts:
            return fixed, {}
        sums = {"loss": loss.detach(), "nll": self._surprise(scores), **vars(metrics)}
        return fixed, {name: float(value) for name, value in sums.items() if value is not None}

    def _surprise(self, scores: Scores) -> Tensor | None:
        log_probs = scores.theta if self.objective.reads == "log_prob" else scores.theta_log_prob
        if log_probs is None:
            return None
        return negative_log_likelihood(log_probs, scores.read, scores.judged, scores.weight)

    def _halve(self, failed: int, shortage: str) -> None:
        """Cuts the micro-batches from the failed one on, whose size is halved.

        Raises:
            OutOfMemoryError: the failed one cannot be cut.
            SharedShortageError: other processes are in the middle of the same micro-batch.
        """
        memory.release(self.reader.denoiser.device)
        part = self.parts[failed]
        if len(part) <= self.unit:
            message = (
                f"{part.tokens} tokens, {len(part)} completions in all views, do not fit the memory, and fewer cannot "
                f"be scored at a time ({shortage}). Set distill.compute.gradient_checkpointing, or lower the number of "
                "mask pairs or states of a path, the length of completions, or the group size where completions are "
                "compared within groups."
            )
            if self.together:
                raise memory.SharedShortageError(message, part.tokens, smallest=True)
            raise memory.OutOfMemoryError(message)
        if self.together:
            message = f"{part.tokens} tokens do not fit the memory ({shortage})"
            raise memory.SharedShortageError(message, part.tokens, smallest=False)
        self.tokens = min(self.tokens, part.tokens) // 2
        rest = [smaller for part in self.parts[failed:] for smaller in part.cut(self.tokens, self.unit)]
        self.parts = [*self.parts[:failed], *rest]
        logger.warning(
            "%d tokens do not fit the memory; going on with micro-batches of %d (%s)",
            part.tokens,
            self.tokens,
            shortage,
        )


def _sum(total: Tensor | None, more: Tensor | None) -> Tensor | None:
    """Adds in place, since a sum of its own could run out of memory."""
    return more if total is None else total if more is None else total.add_(more)
