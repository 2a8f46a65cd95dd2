"""A round's rewarded completions as tensors, with the views in which they are read."""

from dataclasses import dataclass

import pyarrow as pa
import torch
from torch import Tensor

from tasks.gdsd import seeds
from tasks.gdsd.config.objective import CoupledMasks, GdsdConfig, ObjectiveConfig, PromptMasks
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.denoiser.padding import left_pad
from tasks.gdsd.distill import masking
from tasks.gdsd.distill.masking import Views
from tasks.gdsd.errors import DataError


@dataclass(frozen=True)
class Batch:
    """Whole groups of completions on the device."""

    prompts: Tensor  # (B, S) int64, left-padded
    attention: Tensor  # (B, S) bool
    completions: Tensor  # (B, L) int64
    advantages: Tensor  # (B,) float32, 0 where there is none
    judged: Tensor  # (B,) bool, False where there is no advantage: such a completion is left out of the loss
    views: Views

    @property
    def prompt_lengths(self) -> Tensor:  # (B,) int64
        return self.attention.sum(1)

    def rows(self, chosen: slice | Tensor) -> "Batch":
        """Picks completions, and pads no further than to the longest prompt among them."""
        attention = self.attention[chosen]
        start = attention.shape[1] - int(attention.sum(1).max()) if len(attention) else 0
        views, prompt_hidden, weight = self.views, self.views.prompt_hidden, self.views.weight
        return Batch(
            self.prompts[chosen, start:],
            attention[:, start:],
            self.completions[chosen],
            self.advantages[chosen],
            self.judged[chosen],
            Views(
                views.hidden[:, chosen],
                views.read[:, chosen],
                views.counted[chosen],
                None if prompt_hidden is None else prompt_hidden[:, chosen, start:],
                None if weight is None else weight[:, chosen],
            ),
        )

    def tensors(self) -> dict[str, Tensor]:
        """Returns everything by name, as it is kept when an update is not finite."""
        named = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return named | {f"views.{name}": value for name, value in vars(self.views).items() if value is not None}


def collate(
    rewarded: pa.Table, denoiser: Denoiser, objective: ObjectiveConfig, *, group_size: int, round_index: int, seed: int
) -> Batch | None:
    """Puts the groups that carry a signal on the device and draws their views; None where no group does.

    Raises:
        DataError: the completions differ in length.
    """
    rows = rewarded.to_pylist()
    groups = [rows[start : start + group_size] for start in range(0, len(rows), group_size)]
    rows = [row for group in groups if any(row["advantage"] for row in group) for row in group]
    if not rows:
        return None
    lengths = {len(row["completion_ids"]) for row in rows}
    if len(lengths) != 1:
        raise DataError(f"completions of one round must have one length, but these occur: {sorted(lengths)}")
    device = denoiser.device
    prompts, attention = left_pad([row["prompt_ids"] for row in rows], denoiser.pad_id, device)
    completions = torch.tensor([row["completion_ids"] for row in rows], device=device)
    counted = masking.counted_tokens(completions, denoiser.end_ids if objective.after_end == "ignored" else ())
    return Batch(
        prompts=prompts,
        attention=attention,
        completions=completions,
        advantages=torch.tensor([row["advantage"] or 0.0 for row in rows], dtype=torch.float32, device=device),
        judged=torch.tensor([row["advantage"] is not None for row in rows], device=device),
        views=_views(
            [(row["prompt_id"], row["sample"]) for row in rows],
            torch.tensor([row["unmasked_at"] for row in rows], device=device),
            torch.tensor([row["uncertainty"] for row in rows], device=device),
            attention,
            counted,
            objective,
            round_index,
            seed,
        ),
    )


def _views(
    addresses: list[tuple[str, int]],  # prompt and sample of each completion
    unmasked_at: Tensor,  # (B, L) int64
    uncertainty: Tensor,  # (B, L) float32
    attention: Tensor,  # (B, S) bool
    counted: Tensor,  # (B, L) bool
    objective: ObjectiveConfig,
    round_index: int,
    seed: int,
) -> Views:
    if not isinstance(objective, CoupledMasks | PromptMasks):
        raise ValueError(f"{type(objective).__name__} does not say which tokens are hidden")
    share = objective.share_masks
    keys = torch.tensor(
        [seeds.key(seed, "masks", round_index, prompt, -1 if share else sample) for prompt, sample in addresses],
        device=counted.device,
    )
    if isinstance(objective, PromptMasks):
        return masking.prompt_views(keys, attention, counted, objective.mask_draws, objective.prompt_mask_rate)
    if isinstance(objective, GdsdConfig) and objective.mask_source == "path":
        return masking.path_views(keys, unmasked_at, uncertainty, counted, objective.path_states)
    if objective.mask_source == "trajectory":
        masks = masking.trajectory_masks(keys, unmasked_at, counted, objective.mask_pairs)
    else:
        blocks = objective.mask_blocks if isinstance(objective, GdsdConfig) else None
        masks = masking.random_masks(keys, counted, objective.mask_pairs, blocks)
    return masking.mask_views(masks, counted, objective.reads_complement)
