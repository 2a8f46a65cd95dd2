"""Which tokens are hidden: every size, set and sampler step equally often, by the key alone, and only what counts."""

import math
from collections.abc import Callable
from itertools import combinations

import pytest
import torch
from torch import Tensor

from tasks.gdsd import seeds
from tasks.gdsd.distill import masking
from tasks.gdsd.distill.masking import counted_tokens, mask_views, prompt_views
from tasks.gdsd.objectives.base import pair_scores


def keys(count: int, *address: int | str) -> Tensor:
    return torch.tensor([seeds.key("test", *address, index) for index in range(count)])


def everything(count: int, length: int) -> Tensor:
    """Completions of which all tokens count."""
    return torch.ones(count, length, dtype=torch.bool)


def of_lengths(lengths: Tensor, width: int) -> Tensor:  # (B, L) bool
    return torch.arange(width) < lengths[:, None]


def random_masks(keys: Tensor, length: int, pairs: int) -> Tensor:
    return masking.random_masks(keys, everything(len(keys), length), pairs)


def chi_square(counts: Tensor) -> float:
    expected = counts.sum() / len(counts)
    return ((counts - expected) ** 2 / expected).sum().item()


@pytest.mark.parametrize("length", [1, 4, 15])
def test_hidden_counts_are_stratified(length: int) -> None:
    """If it fails, gradients are noisier: a batch may by chance hide few tokens everywhere.

    With U = m (L + 1) distinct keys, key of rank k hides floor((k + jitter) / U * (L + 1)) = floor((k + jitter) / m)
    tokens, jitter in [0, 1): each size of 0..L exactly m times, in every pair.
    """
    masks = random_masks(keys(3 * (length + 1)), length, 4)
    for pair in masks:
        assert torch.bincount(pair.sum(1), minlength=length + 1).tolist() == [3] * (length + 1)


def chi_square_of_sets(codes: Tensor, size: int) -> float:
    """Of masks over 4 tokens, each coded in 4 bits, those that hide `size` tokens against equal frequencies."""
    sets = [sum(1 << position for position in chosen) for chosen in combinations(range(4), size)]
    return chi_square(torch.tensor([(codes == code).sum().item() for code in sets]).double())


BITS = torch.tensor([1, 2, 4, 8])
SET_LIMITS = {1: 21.1, 2: 25.7, 3: 21.1}  # exceeded once in 10,000 with 3, 5 and 3 degrees of freedom


def test_a_single_key_draws_sizes_and_sets_uniformly() -> None:
    """If it fails, small batches prefer some sizes, or the place of a hidden token tells how many are hidden.

    One distinct key alone has the whole range as its stratum: x = floor(jitter * (L + 1)) is uniform over 0..L, and
    the set must not depend on the jitter. Over 3,000 keys the counts of the 5 sizes are chi-square with 4 degrees of
    freedom, 25 exceeded once in 20,000, those of the sets of a size with 3 or 5.
    """
    masks = torch.cat([random_masks(key[None], 4, 1)[0] for key in keys(3000, "single")])
    assert chi_square(torch.bincount(masks.sum(1), minlength=5).double()) < 25
    codes = (masks * BITS).sum(1)
    for size, limit in SET_LIMITS.items():
        assert chi_square_of_sets(codes, size) < limit


def test_hidden_counts_fill_partial_strata_evenly() -> None:
    """If it fails, a batch whose size is no multiple of L + 1 prefers some sizes.

    Three keys share sizes 0..4: each size has probability 1/5 per key, so over 1,500 batches the counts of 4,500
    draws are near 900 each. Stratified draws vary less than independent ones, so 25 is a generous limit.
    """
    sizes = torch.cat([random_masks(keys(3, "partial", batch), 4, 1).sum(2).flatten() for batch in range(1500)])
    assert chi_square(torch.bincount(sizes, minlength=5).double()) < 25


def test_sets_of_a_size_are_equally_likely() -> None:
    """If it fails, some tokens are always predicted together, and the score is no fair estimate.

    Given x of 4 hidden tokens, each of the C(4, x) sets has the same probability. 3,000 keys give 600 draws of each x;
    chi-square limits of about 1 in 10,000 for C(4, x) - 1 = 3 or 5 degrees of freedom.
    """
    codes = (random_masks(keys(3000, "sets"), 4, 1)[0] * BITS).sum(1)
    for size, limit in SET_LIMITS.items():
        assert chi_square_of_sets(codes, size) < limit


def test_pairs_are_independent() -> None:
    """If it fails, a second mask pair mostly repeats the first, and its cost buys little.

    Whether pair 0 hides token i and pair 1 hides token j is independent for all i, j: correlations have standard error
    1/sqrt(n); 5 of them are allowed to the largest of 64.
    """
    count = 4000
    first, second = random_masks(keys(count, "pairs"), 8, 2).double()  # (B, L) each
    joint = torch.corrcoef(torch.cat([first.T, second.T]))[:8, 8:]
    assert joint.abs().max().item() < 5 / math.sqrt(count)


def test_size_and_set_do_not_follow_the_order_of_keys() -> None:
    """If it fails, the first prompts of a batch are always scored with few tokens hidden.

    Sizes are drawn independently of the place in the batch: the correlation has standard error 1/sqrt(n).
    """
    sizes = random_masks(keys(4000, "order"), 9, 1)[0].sum(1).double()
    pair = torch.stack([sizes, torch.arange(4000).double()])
    assert abs(torch.corrcoef(pair)[0, 1].item()) < 4 / math.sqrt(4000)


@pytest.mark.parametrize("length", [8, 7])
def test_blocks_are_hidden_from_the_last_one_on(length: int) -> None:
    """If it fails, a recipe that follows 2211b60 of GaryBall/GDSD shows the denoiser other contexts than theirs.

    With blocks of 3, counted from the end, a mask of x tokens hides the last x // 3 of them whole, and of the one
    before any x % 3 tokens, each set of them as often: over 400 draws of one block's pairs chi-square stays below 18.4,
    exceeded once in 10,000 with 2 degrees of freedom.
    """
    count = 400 * (length + 1)
    (masks,) = masking.random_masks(keys(count, "blocks"), of_lengths(torch.full((count,), length), 8), 1, 3)
    sizes = masks.sum(1)
    assert torch.bincount(sizes, minlength=length + 1).tolist() == [400] * (length + 1)
    for size in range(length + 1):
        some = masks[sizes == size]
        whole, partial = length - size // 3 * 3, max(0, length - size // 3 * 3 - 3)
        assert (
            bool(some[:, whole:length].all()) and not bool(some[:, :partial].any()) and not bool(some[:, length:].any())
        )
    pairs = masks[sizes == 2][:, length - 3 : length]
    assert chi_square((~pairs).sum(0).double()) < 18.4


# States of the sampler's own trajectory

STEPS = 5


def trajectories(count: int, length: int = 8) -> Tensor:
    """The step that unmasked each token: every step unmasks at least one, in an order of its own per sequence."""
    source = torch.Generator().manual_seed(0)
    steps = torch.arange(length) % STEPS
    return torch.stack([steps[torch.randperm(length, generator=source)] for _ in range(count)])


def test_trajectory_masks_are_states_before_a_step() -> None:
    """If it fails, the policy is trained on contexts that its sampler never meets.

    Before step s exactly the tokens unmasked at s or later are hidden: a mask is one of the STEPS sets
    {i : unmasked_at[i] >= s}, and never hides nothing.
    """
    unmasked_at = trajectories(300)
    masks = masking.trajectory_masks(keys(300), unmasked_at, everything(300, 8), 2)
    assert masks.shape == (2, 300, 8) and masks.dtype == torch.bool
    states = torch.stack([unmasked_at >= step for step in range(STEPS)])  # (STEPS, B, L)
    for pair in masks:
        assert bool((pair == states).all(2).any(0).all())
    assert masks.any(2).all()


@pytest.mark.parametrize("multiple", [1, 3])
def test_trajectory_steps_are_stratified(multiple: int) -> None:
    """If it fails, some of the sampler's steps are hardly trained.

    With U = m * STEPS distinct keys, key of rank k takes step floor((k + jitter) / m): each step exactly m times.
    """
    count = multiple * STEPS
    unmasked_at = torch.arange(STEPS).expand(count, -1)  # token i at step i: a mask from step s hides STEPS - s tokens
    for pair in masking.trajectory_masks(keys(count), unmasked_at, everything(count, STEPS), 4):
        assert torch.bincount(STEPS - pair.sum(1), minlength=STEPS).tolist() == [multiple] * STEPS


def test_equal_keys_take_the_same_step_of_their_own_trajectories() -> None:
    """If it fails, `share_masks` does not share: completions of a group are compared at different steps."""
    unmasked_at = trajectories(12)
    masks = masking.trajectory_masks(keys(3).repeat_interleave(4), unmasked_at, everything(12, 8), 3)
    sizes = masks.sum(2).view(3, 3, 4)
    states = torch.stack([unmasked_at >= step for step in range(STEPS)])
    for pair in range(3):
        for group in range(3):
            rows = slice(4 * group, 4 * group + 4)
            assert any(torch.equal(masks[pair, rows], state[rows]) for state in states)
    assert bool((sizes == sizes[:, :, :1]).all())


def random_masks_of(keys: Tensor, unmasked_at: Tensor, pairs: int) -> Tensor:
    return random_masks(keys, unmasked_at.shape[1], pairs)


def trajectory_masks_of(keys: Tensor, unmasked_at: Tensor, pairs: int) -> Tensor:
    return masking.trajectory_masks(keys, unmasked_at, everything(*unmasked_at.shape), pairs)


@pytest.mark.parametrize("draw", [random_masks_of, trajectory_masks_of])
def test_masks_follow_only_from_the_key(draw: Callable[[Tensor, Tensor, int], Tensor]) -> None:
    """If it fails, the order of rollouts or the number of pairs changes the training, or `share_masks` shares none."""
    many, unmasked_at = keys(30), trajectories(30)
    masks = draw(many, unmasked_at, 2)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    assert torch.equal(draw(many[order], unmasked_at[order], 2), masks[:, order])
    assert torch.equal(draw(many, unmasked_at, 4)[:2], masks)
    assert torch.equal(draw(many, unmasked_at, 2), masks)
    assert not torch.equal(masks[0], masks[1]) and len(masks[0].unique(dim=0)) > 1
    alike = draw(many.repeat_interleave(4), unmasked_at.repeat_interleave(4, 0), 2)
    assert torch.equal(alike, masks.repeat_interleave(4, dim=1))


# What counts


def test_counted_tokens_by_hand() -> None:
    """If it fails, the end of an answer is not trained, or what follows it is."""
    completions = torch.tensor([[1, 2, 3, 4], [1, 9, 3, 4], [9, 2, 9, 4], [1, 2, 3, 9], [5, 8, 6, 9]])
    assert counted_tokens(completions, (9,)).sum(1).tolist() == [4, 2, 1, 4, 4]
    assert counted_tokens(completions, (9, 8)).sum(1).tolist() == [4, 2, 1, 4, 2], "LLaDA has an end of turn as well"
    assert counted_tokens(completions, (9,))[1].tolist() == [True, True, False, False]
    assert counted_tokens(completions, ()).all()


def test_a_pair_hides_every_counted_token_once_and_no_other() -> None:
    """If it fails, what follows an answer's end is scored, or a token before it is not."""
    counted = of_lengths(torch.tensor([1, 4, 6, 3]), 6)
    masks = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    views = mask_views(masks, counted)
    assert torch.equal(views.hidden.view(3, 2, 4, 6).sum(1), counted.expand(3, -1, -1).long())
    assert torch.equal(views.hidden[::2], masks & counted)
    assert torch.equal(views.counted, counted) and views.prompt_hidden is None
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
    assert pair_scores(readouts, hidden, lengths, "uniform", views=1).flatten().tolist() == [-1.5, -4.0, 0.0]
    assert pair_scores(readouts, hidden, lengths, "elbo", views=1).flatten().tolist() == [-1.875, -5.0, 0.0]


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
    masks = masking.random_masks(keys(4000, "views", "own length", length), of_lengths(lengths, 8), 2)
    assert not (masks & ~of_lengths(lengths, 8)).any()
    for pair in masks[:, ::4]:
        assert chi_square(torch.bincount(pair.sum(1), minlength=length + 1).double()) < 30


def test_sets_are_uniform_among_the_counted_tokens() -> None:
    """If it fails, tokens near the end of an answer are scored in other contexts than those at its beginning.

    Given the size, all sets are equally likely: each of 3 counted tokens of 6 is hidden in half of all draws, and each
    two of them together in a third (sizes 2 and 3: 1/4 * 1/3 + 1/4). Binomial, 5 standard errors.
    """
    count = 4000
    masks = masking.random_masks(keys(count, "views", "sets"), of_lengths(torch.full((count,), 3), 6), 1)[0].double()
    together = masks[:, :3].T @ masks[:, :3] / count
    expected = torch.full((3, 3), 1 / 3, dtype=torch.float64).fill_diagonal_(1 / 2)
    assert (together - expected).abs().max().item() < 5 * math.sqrt(0.25 / count)


def test_neighbours_that_end_early_change_nothing() -> None:
    """If it fails, how a completion is scored depends on the others of its batch."""
    chosen, lengths = keys(12), torch.tensor([8, 3, 5]).repeat(4)
    masks = masking.random_masks(chosen, of_lengths(lengths, 8), 2)
    whole = masking.random_masks(chosen, of_lengths(torch.full((12,), 8), 8), 2)
    assert torch.equal(masks[:, ::3], whole[:, ::3])


def test_trajectory_masks_keep_to_the_counted_tokens() -> None:
    """If it fails, what follows an answer's end is scored, or it changes the states of what comes before.

    A state hides the counted tokens that were unmasked at its step or later, the same step as with everything counted.
    """
    source = torch.Generator().manual_seed(0)
    unmasked_at = torch.rand(20, 8, generator=source).argsort(1)
    counted = of_lengths(torch.arange(20) % 8 + 1, 8)
    chosen = keys(20)
    masks = masking.trajectory_masks(chosen, unmasked_at, counted, 3)
    assert torch.equal(masks, masking.trajectory_masks(chosen, unmasked_at, torch.ones_like(counted), 3) & counted)


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
    found = hidden(keys(count, "views", "rate"), prompts([6] * count, 6), 2, rate).double()  # (2, B, 6)

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
