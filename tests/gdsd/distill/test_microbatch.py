"""Cutting an epoch into micro-batches: by tokens, sorted by length, padded no further than needed."""

from itertools import pairwise

import pyarrow as pa
import pytest
import torch

from tasks.gdsd.config.objective import DiffuGrpoConfig, EspoConfig, GdsdConfig, ObjectiveConfig, SpgConfig, Wd1Config
from tasks.gdsd.denoiser.checkpoint import PolicyState
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.distill import forward
from tasks.gdsd.distill.batch import Batch, collate
from tasks.gdsd.distill.forward import hidden_states
from tasks.gdsd.distill.microbatch import Fixed, MicroBatch, deal, share, smallest
from tests.gdsd.epochs import GROUP, LENGTH, OBJECTIVE, PROMPTS, SIGNAL, computed, configured, run, weights
from tests.gdsd.shared_epochs import Case, start_of

VIEWS = 4  # two pairs
WIDTHS = sorted((len(PROMPTS[group]) for group in SIGNAL), reverse=True)


@pytest.fixture
def batch(table: pa.Table, denoiser: Denoiser) -> Batch:
    found = collate(table, denoiser, OBJECTIVE, group_size=GROUP, round_index=0, seed=7)
    assert found is not None
    return share(found, GROUP, 0, 1)


def watch(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Collects completions and prompt tokens of every batch that the update loop reads."""
    seen = []

    def states(denoiser: Denoiser, prompts: torch.Tensor, *rest: object) -> object:
        seen.append((prompts.shape[0], prompts.shape[1]))
        return hidden_states(denoiser, prompts, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(forward, "hidden_states", states)
    return seen


def test_completions_are_in_order_of_their_prompts_lengths(batch: Batch) -> None:
    """If it fails, short sequences are padded to the longest of the round and the memory's peak comes late."""
    assert batch.prompt_lengths.tolist() == [width for width in WIDTHS for _ in range(GROUP)]


@pytest.mark.parametrize("processes", [1, 2, 3, 5, 8])
def test_every_group_is_dealt_once_and_evenly(processes: int) -> None:
    """If it fails, a group is trained twice or never, or one process computes while the others wait.

    Dealt to the least loaded one, longest first, no two processes differ by more than the longest group.
    """
    lengths = [20 + 7 * group % 50 for group in range(23)]
    hands = deal(lengths, processes)
    assert sorted(group for hand in hands for group in hand) == list(range(23))
    loads = [sum(lengths[group] for group in hand) for hand in hands]
    assert max(loads) - min(loads) <= max(lengths)
    assert all(lengths[one] >= lengths[other] for hand in hands for one, other in pairwise(hand))


@pytest.mark.parametrize("unit", [1, GROUP])
@pytest.mark.parametrize("tokens", [1, 99, 240, 500, 900, 10_000])
def test_a_micro_batch_has_as_many_tokens_as_allowed(batch: Batch, unit: int, tokens: int) -> None:
    """If it fails, the limit that a person sets for the memory does not hold, or half of the memory lies idle.

    Tokens are those of all views with padding. Only a single unit may be longer, and one unit more would be too many.
    """
    parts = MicroBatch(batch).cut(tokens, unit)
    assert torch.equal(torch.cat([part.batch.completions for part in parts]), batch.completions)
    for index, part in enumerate(parts):
        width = part.batch.prompts.shape[1]
        assert part.tokens == VIEWS * len(part) * (width + LENGTH) and len(part) % unit == 0
        assert part.tokens <= tokens or len(part) == unit
        assert width == int(part.batch.prompt_lengths.max())
        if index + 1 < len(parts):
            assert VIEWS * (len(part) + unit) * (width + LENGTH) > tokens


def test_cutting_again_keeps_what_is_known_of_each_completion(batch: Batch) -> None:
    """If it fails, old or reference scores belong to another completion once memory has run out."""
    hidden = batch.views.hidden
    place = torch.arange(hidden.numel()).view(hidden.shape)
    known = MicroBatch(batch, Fixed(place[hidden][:, None], place.float(), place + 0.5, None))
    start = 0
    for part in known.cut(300, 1):
        rows = slice(start, start + len(part))
        assert part.fixed is not None and part.fixed.candidates is not None and part.fixed.ref is not None
        assert torch.equal(part.fixed.old, place[:, rows].float()) and torch.equal(part.fixed.ref, place[:, rows] + 0.5)
        assert torch.equal(part.fixed.candidates[:, 0], place[:, rows][hidden[:, rows]])
        assert torch.equal(part.batch.views.hidden, hidden[:, rows]) and part.fixed.ref_log_prob is None
        start += len(part)
    assert start == len(known)


@pytest.mark.parametrize(
    "objective, unit",
    [
        (OBJECTIVE, 1),
        (GdsdConfig(baseline="group", mask_source="random"), GROUP),
        (EspoConfig(), 1),
        (SpgConfig(), 1),
        (DiffuGrpoConfig(), 1),
        (Wd1Config(), GROUP),
        (ObjectiveConfig(), GROUP),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, ObjectiveConfig) else str(value),
)
def test_groups_stay_together_where_an_objective_compares_within(objective: ObjectiveConfig, unit: int) -> None:
    """If it fails, a group's mean is over what happened to fit the memory. A new objective is taken to compare."""
    assert smallest(objective, GROUP) == unit


def test_the_limit_reaches_the_update_loop(
    start: PolicyState, table: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, micro_batch_tokens is a dead switch, or the forward is wider than the prompts in it.

    A group of the shortest prompts has 4 views of 4 * (3 + 8) tokens; with a limit of one token less it is cut.
    """
    seen = watch(monkeypatch)
    run(start, table, computed(configured(inner_steps=1)))
    assert seen == [(3 * GROUP, WIDTHS[0])]
    seen.clear()
    limit = VIEWS * GROUP * (min(WIDTHS) + LENGTH)
    run(start, table, computed(configured(inner_steps=1), micro_batch_tokens=limit))
    assert seen[-1] == (GROUP, min(WIDTHS)) and sum(rows for rows, _ in seen) == 3 * GROUP
    seen.clear()
    run(start, table, computed(configured(inner_steps=1), micro_batch_tokens=limit - 1))
    assert seen[-1] == (1, min(WIDTHS))


@pytest.mark.parametrize(
    ("baseline", "adapter", "tokens"),
    [("zero", False, 1), ("zero", True, 400), ("group", False, 400), ("group", True, 1)],
)
def test_micro_batches_by_tokens_train_the_same_weights(
    table: pa.Table, baseline: str, adapter: bool, tokens: int
) -> None:
    """If it fails, a smaller GPU trains another policy."""
    begin = start_of(Case(adapter=adapter))
    config = configured({"baseline": baseline})
    whole, parts = run(begin, table, config)[0], run(begin, table, computed(config, micro_batch_tokens=tokens))[0]
    torch.testing.assert_close(weights(parts), weights(whole), rtol=0, atol=1e-5)
    assert (weights(whole) - weights(begin)).abs().max() > 1e-3
