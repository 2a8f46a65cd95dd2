"""The updates of a policy on one batch. Each differentiates, clips and steps, or is skipped if it is not finite."""

import logging
import math

import torch
from accelerate import Accelerator
from torch import Tensor

from tasks.gdsd.config.train import DistillConfig
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.distill import fsdp, optimizer_state, processes
from tasks.gdsd.distill.batch import Batch
from tasks.gdsd.distill.forward import Reader
from tasks.gdsd.distill.gradients import Gradients
from tasks.gdsd.distill.resume import Interim, Keeper, Reached
from tasks.gdsd.records import StepStats

logger = logging.getLogger(__name__)


class Updates:
    """A policy's weights and moments, and what changes them.

    With an `ema_decay` the policy is a moving average of the weights that are trained, the student's: it makes the
    completions, is the teacher that the student regresses to, and is what is evaluated. (A mean teacher,
    arXiv 1703.01780; in reinforcement learning of diffusion models, arXiv 2509.16117.) Both are there in an epoch: the
    student's weights in the denoiser, from `begin` to `settle`, and the policy's in `policy`.
    """

    def __init__(
        self,
        models: list[Denoiser],  # the policy, and the base where there is a second one
        batch: Batch,
        config: DistillConfig,
        group_size: int,
        accelerator: Accelerator,
    ):
        """Makes a fresh optimizer, to which `begin` or `go_on` gives its moments."""
        self.denoiser, *others = models
        self.config, self.accelerator = config, accelerator
        base = others[0] if others else None
        reader = Reader(self.denoiser, base, config.objective, accelerator.autocast)
        self.gradients = Gradients(reader, batch, config, group_size, accelerator)
        self.policy: list[Tensor] | None = None
        self.student: dict[str, Tensor] = {}  # after `settle`
        self.surprise: float | None = None  # of the policy at its own tokens, where it is not what is trained
        self.optimizer = torch.optim.AdamW(
            self.gradients.trainable,
            config.learning_rate,
            (config.adam_beta1, config.adam_beta2),
            weight_decay=config.weight_decay,
        )

    def begin(self, moments: dict[str, Tensor]) -> None:
        """Takes over student and moments of the epoch before, which are no longer in the mapping afterwards."""
        student = optimizer_state.take_student(self.denoiser, moments)
        if self.config.ema_decay > 0:
            self.surprise = self.gradients.read_old()
            self._put_aside()
            if student:
                optimizer_state.restore_weights(self.denoiser, student)
        optimizer_state.restore(self.optimizer, self.denoiser, moments)

    def go_on(self, interim: Interim) -> None:
        """Takes over what an earlier attempt at this epoch has kept."""
        averaged = self.config.ema_decay > 0
        if len(interim.record.reached.steps) < self.config.inner_steps:
            self.gradients.read_start(interim.record.cuts[self.accelerator.process_index], averaged)
        if averaged:
            self._put_aside()
        optimizer_state.restore_weights(self.denoiser, interim.weights)
        optimizer_state.restore(self.optimizer, self.denoiser, interim.moments)

    def take(self, learning_rate: float) -> StepStats:
        """Takes one optimizer step, or skips it when the loss or the gradient is not finite; alike in all processes."""
        means = self.gradients.compute()
        norm = fsdp.clip(self.gradients.trainable, self.config.max_grad_norm, self.accelerator)
        finite = math.isfinite(means["loss"]) and math.isfinite(norm)
        if finite:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            self.optimizer.step()
        elif self.accelerator.is_main_process:
            logger.warning("an update was skipped: loss %s, gradient norm %s", means["loss"], norm)
        nll, self.surprise = means.get("nll") if self.surprise is None else self.surprise, None
        return StepStats(
            loss=_finite(means["loss"]),
            residual_abs=_finite(means.get("residual_abs")),
            shift_abs=_finite(means["shift_abs"]),
            clipped=_finite(means.get("clipped")),
            kl_ref=_finite(means.get("kl_ref")),
            grad_norm=_finite(norm),
            learning_rate=learning_rate,
            skipped=not finite,
            nll=_finite(nll),
        )

    @torch.no_grad()
    def settle(self) -> None:
        """Ends the epoch: the policy follows the student, which is put aside in its turn."""
        if self.policy is None:
            return
        self.gradients.clear()  # which makes room
        self.student = optimizer_state.collect_weights(
            self.denoiser, copied=True, first=self.accelerator.is_main_process
        )
        decay = self.config.ema_decay
        for parameter, old in zip(self.gradients.trainable, self.policy, strict=True):
            parameter.mul_(1 - decay).add_(old, alpha=decay)

    def _put_aside(self) -> None:
        self.policy = [parameter.detach().clone() for parameter in self.gradients.trainable]

    def keep(self, keeper: Keeper, reached: Reached) -> None:
        """Keeps the state that was reached, for the next attempt at this epoch."""
        cuts = processes.gather(self.gradients.cut(), self.accelerator)
        keeper.keep(reached, cuts, self.denoiser, self.optimizer, self.accelerator)

    def moments(self) -> dict[str, Tensor]:
        """Returns moments and student by name; those that are spread, in the first process alone."""
        moments = optimizer_state.collect(self.optimizer, self.denoiser, first=self.accelerator.is_main_process)
        if not moments:  # no update so far: the student is still the policy
            return moments
        return moments | {f"{name}.{optimizer_state.STUDENT}": weight for name, weight in self.student.items()}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
