"""What of a completion counts, masks that keep to it, and prompts with hidden tokens."""

import math

import pytest
import torch
from torch import Tensor

from tasks.gdsd import seeds
from tasks.gdsd.distill.masking import counted_tokens, mask_views, prompt_views, random_masks, trajectory_masks
from tasks.gdsd.objectives.base import pair_scores

END = 9


def keys(count: int, *address: int | str) -> Tensor:
    return torch.tensor([seeds.key("views", *address, index) for index in range(count)])


def of_lengths(lengths: Tensor, width: int) -> Tensor:  # (B, L) bool
    return torch.arange(width) < lengths[:, None]


def chi_square(counts: Tensor) -> float:
    expected = counts.sum() / len(counts)
    return ((counts - expected) ** 2 / expected).sum().item()


# What counts


def test_counted_tokens_by_hand() -> None:
    """If it fails, the end of an answer is not trained, or what follows it is."""
    completions = torch.tensor([[1, 2, 3, 4], [1, END, 3, 4], [END, 2, END, 4], [1, 2, 3, END]])
    assert counted_tokens(completions, (END,)).int().tolist() == [
        [1, 1, 1, 1],
        [1, 1, 0, 0],
        [1, 0, 0, 0],
        [1, 1, 1, 1],
    ]
    assert counted_tokens(completions, ()).all()


def test_any_end_token_ends_the_count() -> None:
    """If it fails, what follows LLaDA's end of turn is trained on although the reward never reads it."""
    completions = torch.tensor([[5, 8, 6, 9], [9, 8, 5, 5], [5, 5, 5, 5]])
    assert counted_tokens(completions, (9, 8)).int().tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]]


def test_a_pair_hides_every_counted_token_once_and_no_other() -> None:
    """If it fails, what follows an answer's end is scored, or a token before it is not."""
    counted = of_lengths(torch.tensor([1, 4, 6, 3]), 6)
    masks = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    views = mask_views(masks, counted)
    assert torch.equal(views.hidden.view(3, 2, 4, 6).sum(1), counted.expand(3, -1, -1).long())
    assert torch.equal(views.counted, counted)


def test_without_complements_only_the_masks_are_views() -> None:
    """If it fails, a run that leaves the complements out pays for them all the same, or trains on them."""
    counted = of_lengths(torch.tensor([1, 4, 6, 3]), 6)
    masks = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    assert torch.equal(mask_views(masks, counted, complement=False).hidden, masks & counted)


def test_scores_without_complements_by_hand() -> None:
    """If it fails, psi does not mean a shift per token once the complements are left out.

    One completion of 4 tokens under 2 masks, which hide tokens 0 and 2, and token 3: the means of what is hidden are
    (-1 - 2) / 2 and -4. With `elbo` weights (L + 1) / x: -3 * 5/2 / 4 and -4 * 5/1 / 4. A mask that hides nothing, as
    a draw may, says nothing.
    """
    hidden = torch.tensor([[[1, 0, 1, 0]], [[0, 0, 0, 1]], [[0, 0, 0, 0]]]).bool()
    readouts = torch.tensor([[[-1.0, 0, -2.0, 0]], [[0, 0, 0, -4.0]], [[0.0, 0, 0, 0]]])
    lengths = torch.tensor([4])
    assert pair_scores(readouts, hidden, lengths, "uniform", complement=False).flatten().tolist() == [-1.5, -4.0, 0.0]
    assert pair_scores(readouts, hidden, lengths, "elbo", complement=False).flatten().tolist() == [-1.875, -5.0, 0.0]


# Masks of completions that end early


@pytest.mark.parametrize("length", [1, 3, 7])
def test_sizes_are_uniform_over_each_own_length(length: int) -> None:
    """If it fails, short answers are mostly scored with everything hidden, and their ELBO is no estimate of it.

    A sequence of L_i counted tokens hides floor(q (L_i + 1)) of them, q uniform over [0, 1): 0..L_i equally often,
    whatever the width of the batch and the lengths of its neighbours. Of 4,000 keys a quarter has L_i counted tokens
    of 8; stratified draws vary less than independent ones, for which 30 is exceeded less than once in 5,000 with up
    to 7 degrees of freedom.
    """
    lengths = torch.tensor([length, 8, 2, 5]).repeat(1000)
    masks = random_masks(keys(4000, "own length", length), of_lengths(lengths, 8), 2)
    assert not (masks & ~of_lengths(lengths, 8)).any()
    for pair in masks[:, ::4]:
        assert chi_square(torch.bincount(pair.sum(1), minlength=length + 1).double()) < 30


def test_sets_are_uniform_among_the_counted_tokens() -> None:
    """If it fails, tokens near the end of an answer are scored in other contexts than those at its beginning.

    Given the size, all sets are equally likely: each of 3 counted tokens of 6 is hidden in half of all draws, and each
    two of them together in a third (sizes 2 and 3: 1/4 * 1/3 + 1/4). Binomial, 5 standard errors.
    """
    count = 4000
    masks = random_masks(keys(count, "sets"), of_lengths(torch.full((count,), 3), 6), 1)[0].double()
    together = masks[:, :3].T @ masks[:, :3] / count
    expected = torch.full((3, 3), 1 / 3, dtype=torch.float64).fill_diagonal_(1 / 2)
    assert (together - expected).abs().max().item() < 5 * math.sqrt(0.25 / count)


def test_equal_lengths_share_masks_of_equal_keys_only() -> None:
    """If it fails, `share_masks` does not share where it can, or hides tokens that do not count where it cannot."""
    same = keys(1).repeat(4)
    masks = random_masks(same, of_lengths(torch.tensor([5, 5, 3, 8]), 8), 4)
    assert torch.equal(masks[:, 0], masks[:, 1])
    assert not masks[:, 2, 3:].any() and not masks[:, :2, 5:].any()


def test_neighbours_that_end_early_change_nothing() -> None:
    """If it fails, how a completion is scored depends on the others of its batch."""
    chosen, lengths = keys(12), torch.tensor([8, 3, 5]).repeat(4)
    masks = random_masks(chosen, of_lengths(lengths, 8), 2)
    whole = random_masks(chosen, of_lengths(torch.full((12,), 8), 8), 2)
    assert torch.equal(masks[:, ::3], whole[:, ::3])


def test_trajectory_masks_keep_to_the_counted_tokens() -> None:
    """If it fails, what follows an answer's end is scored, or it changes the states of what comes before.

    A state hides the counted tokens that were unmasked at its step or later, the same step as with everything counted.
    """
    source = torch.Generator().manual_seed(0)
    unmasked_at = torch.rand(20, 8, generator=source).argsort(1)
    counted = of_lengths(torch.arange(20) % 8 + 1, 8)
    chosen = keys(20)
    masks = trajectory_masks(chosen, unmasked_at, counted, 3)
    assert torch.equal(masks, trajectory_masks(chosen, unmasked_at, torch.ones_like(counted), 3) & counted)


# Prompts with hidden tokens


def prompts(lengths: list[int], width: int) -> Tensor:  # (B, S) bool, False on left padding
    return torch.arange(width) >= width - torch.tensor(lengths)[:, None]


def hidden(chosen: Tensor, attention: Tensor, draws: int = 2, rate: float = 0.3) -> Tensor:  # (C, B, S)
    views = prompt_views(chosen, attention, of_lengths(torch.full((len(chosen),), 4), 4), draws, rate)
    assert views.prompt_hidden is not None
    return views.prompt_hidden


def test_completions_are_hidden_as_a_whole() -> None:
    """If it fails, the one-step likelihood is of a completion of which parts are in view, or cut short."""
    counted = of_lengths(torch.tensor([4, 2, 1]), 4)
    views = prompt_views(keys(3), prompts([5, 5, 5], 5), counted, 3, 0.3)
    assert torch.equal(views.hidden, counted.expand(3, -1, -1)) and torch.equal(views.counted, counted)


@pytest.mark.parametrize("rate", [0.0, 0.15, 0.6])
def test_prompt_tokens_are_hidden_at_the_rate(rate: float) -> None:
    """If it fails, prompts are hidden more or less than configured, at some places, or all of a prompt at once.

    Each token independently with probability `rate`: the share has standard error sqrt(rate (1 - rate) / n), over all
    draws and at each place, and two places together have rate^2. Five of them are allowed.
    """
    count = 4000
    found = hidden(keys(count, "rate"), prompts([6] * count, 6), 2, rate).double()  # (2, B, 6)

    def near(share: Tensor, expected: float, n: int) -> bool:
        return bool(((share - expected).abs() <= 5 * math.sqrt(expected * (1 - expected) / n)).all())

    assert near(found.mean(), rate, 2 * count * 6)
    assert near(found.mean((0, 1)), rate, 2 * count)
    assert near((found[:, :, 1:] * found[:, :, :-1]).mean((0, 1)), rate**2, 2 * count)
    assert near((found[0] * found[1]).mean(0), rate**2, count), "draws are independent"


def test_equal_keys_hide_the_same_prompt_tokens() -> None:
    """If it fails, `share_masks` does not share; or completions that should differ in their view do not."""
    three = keys(3)
    attention = prompts([30] * 12, 30)
    found = hidden(three.repeat_interleave(4), attention)
    assert torch.equal(found, hidden(three, attention[:3]).repeat_interleave(4, dim=1))
    assert not torch.equal(found[:, 0], found[:, 4]) and not torch.equal(found[0], found[1])


def test_padding_moves_and_hides_nothing() -> None:
    """If it fails, a prompt's hidden tokens depend on the longest prompt of the batch, or padding is made a mask."""
    chosen, lengths = keys(20), [index % 7 + 1 for index in range(20)]
    narrow = hidden(chosen, prompts(lengths, 7))
    wide = hidden(chosen, prompts(lengths, 19))
    assert torch.equal(wide[:, :, 12:], narrow) and not wide[:, :, :12].any()
    assert not (narrow & ~prompts(lengths, 7)).any() and narrow.any()


def test_prompt_tokens_are_hidden_whatever_the_batch() -> None:
    """If it fails, the order of rollouts, the micro-batch or the number of draws changes the training."""
    chosen, attention = keys(20), prompts([9, 4] * 10, 9)
    found = hidden(chosen, attention)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    assert torch.equal(hidden(chosen[order], attention[order]), found[:, order])
    assert torch.equal(hidden(chosen[3:5], attention[3:5]), found[:, 3:5])
    assert torch.equal(hidden(chosen, attention, draws=5)[:2], found)


def test_a_part_of_the_views_is_that_part() -> None:
    """If it fails, micro-batches are scored in the views of others."""
    counted = of_lengths(torch.tensor([4, 2, 1]), 4)
    views = prompt_views(keys(3), prompts([5, 2, 3], 5), counted, 2, 0.5)
    part = views.part(slice(1, 3))
    assert views.prompt_hidden is not None and part.prompt_hidden is not None
    assert torch.equal(part.hidden, views.hidden[:, 1:]) and torch.equal(part.counted, counted[1:])
    assert torch.equal(part.prompt_hidden, views.prompt_hidden[:, 1:])
    assert mask_views(torch.zeros(2, 3, 4, dtype=torch.bool), counted).part(slice(1)).prompt_hidden is None
