"""What the engines share that run the policy themselves: batches, blocks and the order of unmasking.

In each block of the completion every step draws a token for all places that are still hidden, keeps the first in rank
and hides the rest again. One uniform number per (sequence, step, position) drives the draw, so tokens do not depend on
what else is in the batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tasks.gdsd import seeds
from tasks.gdsd.config.sampler import SamplerConfig
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.denoiser.families.base import SamplerDefaults
from tasks.gdsd.denoiser.head import Head
from tasks.gdsd.denoiser.padding import left_pad
from tasks.gdsd.denoiser.partial import states_at
from tasks.gdsd.errors import ConfigError, NonFiniteError
from tasks.gdsd.rollout.engines.base import Completion, Engine, Finished, Request
from tasks.gdsd.rollout.engines.choice import Rules, choose, uncertainty

TOGETHER = 2048  # tokens that a CPU reads at a time: what it computes of them in a small network stays in its cache


@dataclass
class Canvas:
    """A batch while it is unmasked."""

    ids: Tensor  # (B, S + L) int64: prompts and completions
    attention: Tensor | None  # (B, S + L) bool, False on left padding; None where nothing is padded
    keys: Tensor  # (B,) int64
    unmasked_at: Tensor  # (B, L) int64; where a token is still hidden, the last step
    uncertainty: Tensor  # (B, L) float32, in nats; 0 where a token is still hidden
    calls: Tensor  # (B,) int64: denoiser calls so far
    is_finite: Tensor  # (B,) bool: so far, the ranks of all tokens
    start: int  # S
    block: slice  # of the positions in work
    which: list[int]  # (B,): the requests

    def rows(self, rows: Tensor) -> "Canvas":  # (B',) int64
        """Returns some of the sequences."""
        return replace(
            self,
            ids=self.ids[rows],
            attention=None if self.attention is None else self.attention[rows],
            keys=self.keys[rows],
            unmasked_at=self.unmasked_at[rows],
            uncertainty=self.uncertainty[rows],
            calls=self.calls[rows],
            is_finite=self.is_finite[rows],
            which=[self.which[row] for row in rows.tolist()],
        )

    def trimmed(self) -> "Canvas":
        """Returns the same without columns that are padding in all sequences, for which it looks at values.

        Rotary angles are relative, so places that move to the left change states by rounding at most.
        """
        if self.attention is None:
            return self
        spare = int(self.attention.int().argmax(1).min())
        attention = self.attention[:, spare:]
        return replace(
            self,
            ids=self.ids[:, spare:],
            attention=None if attention.all() else attention,
            start=self.start - spare,
            block=slice(self.block.start - spare, self.block.stop - spare),
        )

    def finished(self) -> Finished:
        """Returns the completions.

        Raises:
            NonFiniteError: the policy does not say what to draw.
        """
        if broken := int((~self.is_finite).sum()):
            raise NonFiniteError(
                f"logits of {broken} of {len(self.which)} completions are not finite, so the policy's weights are not, "
                "or too large for their precision; go back to an earlier checkpoint"
            )
        completions = (self.ids[:, self.start :], self.unmasked_at, self.uncertainty, self.calls)
        columns = [column.tolist() for column in completions]
        return dict(zip(self.which, (Completion(*column) for column in zip(*columns, strict=True)), strict=True))


class Unmasking(Engine):
    """Unmasks in blocks. A subclass may read the canvas otherwise than as a whole, or choose the tokens otherwise."""

    def __init__(self, denoiser: Denoiser):
        super().__init__()
        self.denoiser = denoiser.eval()

    def states(
        self,
        canvas: Canvas,
        hidden_at: Tensor,  # (B, R) int64: positions of the block that are still hidden
        step: int,  # of the block, counted in denoiser calls
    ) -> Tensor:  # (B, R, D)
        """Returns the states that predict the hidden tokens, and counts the work of the network's blocks."""
        batch, places = canvas.ids.shape
        self.count(canvas, places)
        some = max(1, TOGETHER // places) if canvas.ids.device.type == "cpu" else batch
        parts = [slice(first, first + some) for first in range(0, batch, some)]
        seen = canvas.attention
        return torch.cat(
            [
                states_at(self.denoiser, canvas.ids[part], None if seen is None else seen[part], hidden_at[part])
                for part in parts
            ]
        )

    def count(self, canvas: Canvas, places: int) -> None:
        """Counts a call of the denoiser that computes so many places of each sequence."""
        self.work.calls += 1
        self.work.positions += len(canvas.which) * places

    def resolve(self, settings: SamplerConfig) -> SamplerConfig:
        """Fills in what the authors of the policy's family have where the settings leave it open; see `resolve`."""
        return resolve(settings, self.denoiser.family.sampler)

    @torch.no_grad()
    def generate(self, requests: Sequence[Request], settings: SamplerConfig, batch_size: int) -> Iterator[Finished]:
        """Yields completions, prompts of like lengths together, so that little is padded; see the base class."""
        if not requests:
            raise ValueError("There is nothing to generate: the list of requests is empty.")
        settings = self.resolve(settings)
        rules = make_rules(settings, self.denoiser)
        lengths = [len(request.prompt_ids) for request in requests]
        order = sorted(range(len(requests)), key=lambda index: lengths[index])
        for first in range(0, len(order), batch_size):
            yield from self._unmask(requests, order[first : first + batch_size], settings, rules)

    def _unmask(
        self, requests: Sequence[Request], which: list[int], settings: SamplerConfig, rules: Rules
    ) -> Iterator[Finished]:
        """Unmasks one batch; sequences that need no further block leave it."""
        canvas, ends = self._canvas(requests, which, settings), allowed_ends(settings, self.denoiser)
        for number in range(settings.blocks):
            first = canvas.start + number * settings.block_length
            canvas.block = slice(first, first + settings.block_length)
            self.unmask_block(canvas, settings, rules, number * settings.steps_per_block)
            if settings.stop_at_end and number + 1 < settings.blocks:
                written = canvas.ids[:, canvas.start : canvas.block.stop]
                ended = torch.isin(written, torch.tensor(ends, device=written.device)).any(1)  # (B,)
                over = ended.nonzero().squeeze(1)
                if len(over):
                    canvas.ids[over, canvas.block.stop :] = ends[0]
                    yield canvas.rows(over).finished()
                    if len(over) == len(canvas.which):
                        return
                    canvas = canvas.rows((~ended).nonzero().squeeze(1)).trimmed()
        yield canvas.finished()

    def unmask_block(self, canvas: Canvas, settings: SamplerConfig, rules: Rules, first_step: int) -> None:
        """Unmasks the canvas's block. No value is looked at on the way, so that a GPU is never waited for."""
        head, batch = self.denoiser.head(), len(canvas.which)
        # Every sequence hides the same number of tokens, so the hidden positions form a rectangle.
        hidden_at = torch.arange(canvas.block.start, canvas.block.stop, device=canvas.ids.device).expand(batch, -1)
        call = 0
        for step, share in enumerate(settings.shares(), first_step):
            if not share:
                continue
            states = self.states(canvas, hidden_at, call)
            tokens, ranks = self.draw(states, head, canvas, hidden_at, step, rules)  # (B, R) each
            # A stable sort breaks ties by position, on every device alike.
            canvas.is_finite &= ranks.isfinite().all(1)
            order = ranks.argsort(dim=1, descending=True, stable=True)  # (B, R)
            now = order[:, :share]
            places = hidden_at.gather(1, now)
            canvas.ids.scatter_(1, places, tokens.gather(1, now))
            canvas.unmasked_at.scatter_(1, places - canvas.start, step)
            unsure = uncertainty(ranks.gather(1, now), rules.order)
            canvas.uncertainty.scatter_(1, places - canvas.start, unsure)
            hidden_at = hidden_at.gather(1, order[:, share:].sort(dim=1).values)
            call += 1
        canvas.calls += call

    def draw(
        self,
        states: Tensor,  # (B, R, D)
        head: Head,
        canvas: Canvas,
        places: Tensor,  # (B, R) int64
        step: int,
        rules: Rules,
    ) -> tuple[Tensor, Tensor]:  # (B, R) int64, (B, R) float64
        """Draws tokens and their ranks by the numbers of (sequence, step, position)."""
        self.work.rows += places.numel()
        length = canvas.unmasked_at.shape[1]
        uniform = seeds.uniform(canvas.keys[:, None], step * length + places - canvas.start)
        tokens, ranks = choose(states.flatten(0, 1), head, uniform.flatten(), rules)
        return tokens.view_as(places), ranks.view_as(places)

    def _canvas(self, requests: Sequence[Request], which: list[int], settings: SamplerConfig) -> Canvas:
        device = self.denoiser.device
        prompts, attention = left_pad([requests[index].prompt_ids for index in which], self.denoiser.pad_id, device)
        is_padded = len({len(requests[index].prompt_ids) for index in which}) > 1
        hidden = torch.full((len(which), settings.length), self.denoiser.mask_id, device=device)
        return Canvas(
            ids=torch.cat([prompts, hidden], dim=1),
            attention=torch.cat([attention, torch.ones_like(hidden, dtype=torch.bool)], dim=1) if is_padded else None,
            keys=torch.tensor([requests[index].key for index in which], device=device),
            unmasked_at=torch.full_like(hidden, settings.steps - 1),
            uncertainty=torch.zeros_like(hidden, dtype=torch.float32),
            calls=torch.zeros(len(which), dtype=torch.int64, device=device),
            is_finite=torch.ones(len(which), dtype=torch.bool, device=device),
            start=prompts.shape[1],
            block=slice(0, 0),
            which=which,
        )


def resolve(settings: SamplerConfig, defaults: SamplerDefaults) -> SamplerConfig:
    """Fills in what the authors of a family have where the settings leave it open.

    Raises:
        ConfigError: a setting would have no effect.
    """
    filled = defaults.fill(settings)
    filters = (settings.top_p or 1.0) < 1 or bool(settings.top_k)
    if filters and filled.order == "confidence" and settings.temperature == 0:
        raise ConfigError(
            "sampler.top_p and sampler.top_k change nothing at temperature 0 in the order 'confidence', which is that "
            "of this policy's family; leave them out, or set order to 'entropy'"
        )
    return filled


def allowed_ends(settings: SamplerConfig, denoiser: Denoiser) -> list[int]:
    """Returns the end tokens that completions may have; the first one fills what follows an end."""
    return [end for end in denoiser.end_ids if denoiser.tokenizer.convert_ids_to_tokens(end) not in settings.ban]


def make_rules(settings: SamplerConfig, denoiser: Denoiser) -> Rules:
    """Returns how tokens are drawn by resolved settings.

    Raises:
        ConfigError: a token to ban is unknown, or a setting would have no effect, or leaves nothing to draw.
    """
    vocabulary = denoiser.tokenizer.get_vocab()
    if unknown := [token for token in settings.ban if token not in vocabulary]:
        raise ConfigError(f"sampler.ban has {unknown}, which the policy's tokenizer does not know; see its vocabulary")
    if idle := [token for token in settings.ban if vocabulary[token] in denoiser.never_sampled]:
        raise ConfigError(f"sampler.ban has {idle}, which no completion contains anyway; leave them out")
    if settings.stop_at_end and not allowed_ends(settings, denoiser):
        raise ConfigError("sampler.stop_at_end waits for an end token, but sampler.ban has them all; leave one out")
    banned = [*denoiser.never_sampled, *(vocabulary[token] for token in settings.ban)]
    allowed = denoiser.vocabulary_size - len(banned)
    if not allowed:
        raise ConfigError(f"sampler.ban has all {len(settings.ban)} tokens of the policy's vocabulary; leave some out")
    if settings.top_k is not None and settings.top_k >= allowed:
        raise ConfigError(
            f"sampler.top_k {settings.top_k} leaves nothing out of the {allowed} tokens that may be drawn; "
            f"use at most {allowed - 1}, or 0 for all"
        )
    assert settings.order is not None and settings.top_p is not None
    return Rules(
        temperature=settings.temperature,
        order=settings.order,
        top_p=settings.top_p,
        top_k=settings.top_k or None,
        banned=torch.tensor(banned, device=denoiser.device),
    )
