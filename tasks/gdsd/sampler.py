"""The exact sampler: unmasking in blocks by low-confidence remasking.

In each block of the completion every step predicts all tokens that are still hidden, keeps the most confident ones
and hides the rest again (LLaDA, arXiv 2502.09992). One uniform number per (sequence, step, position) drives the draw
by inverting the cumulative distribution, so no vocabulary-sized noise is made and the tokens do not depend on batch
composition.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.gdsd import seeds
from tasks.gdsd.config import SamplerConfig
from tasks.gdsd.denoiser.denoiser import Denoiser


@dataclass(frozen=True)
class Request:
    """One completion to make: the prompt's tokens and the key of its random numbers."""

    prompt_ids: list[int]
    key: int


@dataclass(frozen=True)
class Completion:
    """What the sampler made of a request."""

    ids: list[int]  # L tokens
    unmasked_at: list[int]  # the step, over all blocks, that unmasked each of them


@torch.no_grad()
def generate(
    denoiser: Denoiser,
    requests: Sequence[Request],
    config: SamplerConfig,
    batch_size: int,
) -> Iterator[list[Completion]]:
    """Yields completions, `config.length` tokens each, batch by batch in the order of the requests.

    Raises:
        ValueError: there are no requests.
    """
    if not requests:
        raise ValueError("There is nothing to generate: the list of requests is empty.")
    denoiser.eval()
    for start in range(0, len(requests), batch_size):
        batch = requests[start : start + batch_size]
        prompts, attention = left_pad([request.prompt_ids for request in batch], denoiser.pad_id, denoiser.device)
        keys = torch.tensor([request.key for request in batch], device=denoiser.device)
        tokens, unmasked_at = unmask(denoiser, prompts, attention, keys, config)
        yield [Completion(*pair) for pair in zip(tokens.tolist(), unmasked_at.tolist(), strict=True)]


def unmask(
    denoiser: Denoiser,
    prompts: Tensor,  # (B, S) int64, left-padded
    attention: Tensor,  # (B, S) bool
    keys: Tensor,  # (B,) int64
    config: SamplerConfig,
) -> tuple[Tensor, Tensor]:  # (B, L) int64, (B, L) int64
    """Unmasks one batch; returns the tokens and the step that unmasked each."""
    batch, start = prompts.shape
    canvas = torch.full((batch, config.length), denoiser.mask_id, device=prompts.device)
    ids = torch.cat([prompts, canvas], dim=1)  # (B, S + L)
    unmasked_at = torch.zeros_like(canvas)
    attention = torch.cat([attention, torch.ones_like(canvas, dtype=torch.bool)], dim=1)
    head = denoiser.head()
    banned = torch.tensor(denoiser.never_sampled, device=prompts.device)
    step = 0
    for block in range(start, start + config.length, config.block_length):
        # Every sequence hides the same number of tokens in a block, so the hidden positions form a rectangle (B, R).
        hidden_at = torch.arange(block, block + config.block_length, device=prompts.device).expand(batch, -1)
        for share in shares(config.block_length, config.steps_per_block):
            states = denoiser(ids, attention)  # (B, S + L, D)
            rows = states.gather(1, hidden_at[:, :, None].expand(-1, -1, states.shape[-1]))  # (B, R, D)
            logits = head.logits(rows).index_fill(-1, banned, -torch.inf)  # (B, R, V) float32
            tokens = draw(
                logits, config.temperature, seeds.uniform(keys[:, None], step * config.length + hidden_at - start)
            )
            confidence = logits.log_softmax(-1).gather(-1, tokens[:, :, None]).squeeze(-1)  # (B, R)
            # A stable sort breaks ties by position, on every device alike.
            order = confidence.argsort(dim=1, descending=True, stable=True)  # (B, R)
            kept = order[:, :share]
            kept_at = hidden_at.gather(1, kept)
            ids.scatter_(1, kept_at, tokens.gather(1, kept))
            unmasked_at.scatter_(1, kept_at - start, step)
            hidden_at = hidden_at.gather(1, order[:, share:].sort(dim=1).values)
            step += 1
    return ids[:, start:], unmasked_at


def draw(
    logits: Tensor,  # (B, R, V) float32
    temperature: float,
    uniform: Tensor,  # (B, R) float64 in [0, 1)
) -> Tensor:  # (B, R) int64
    """Draws one token per row by inverting the cumulative distribution; temperature 0 takes the most likely token."""
    if temperature == 0:
        return logits.argmax(-1)
    mass = ((logits - logits.amax(-1, keepdim=True)).double() / temperature).exp().cumsum(-1)  # (B, R, V)
    target = uniform[:, :, None] * mass[:, :, -1:]
    # right=True skips tokens of no mass, which a uniform of exactly 0 would otherwise select.
    return torch.searchsorted(mass, target, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)


def shares(tokens: int, steps: int) -> list[int]:
    """Splits a number of tokens over steps evenly, the remainder on the first steps."""
    return [tokens // steps + (step < tokens % steps) for step in range(steps)]


def left_pad(
    prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> tuple[Tensor, Tensor]:  # (B, S) int64, (B, S) bool
    """Stacks prompts so that they end together, and marks what is prompt."""
    width = max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    return ids, torch.arange(width, device=device) >= width - lengths[:, None]
