"""Coupled masks: every size, set and sampler step equally often, and nothing but the key counts."""

import math
from itertools import combinations

import pytest
import torch
from torch import Tensor

from tasks.gdsd import seeds
from tasks.gdsd.distill import masking


def keys(count: int, *address: int | str) -> Tensor:
    return torch.tensor([seeds.key("test", *address, index) for index in range(count)])


def everything(count: int, length: int) -> Tensor:
    """Completions of which all tokens count."""
    return torch.ones(count, length, dtype=torch.bool)


def random_masks(keys: Tensor, length: int, pairs: int) -> Tensor:
    return masking.random_masks(keys, everything(len(keys), length), pairs)


def trajectory_masks(keys: Tensor, unmasked_at: Tensor, pairs: int) -> Tensor:
    return masking.trajectory_masks(keys, unmasked_at, everything(*unmasked_at.shape), pairs)


def chi_square(counts: Tensor) -> float:
    expected = counts.sum() / len(counts)
    return ((counts - expected) ** 2 / expected).sum().item()


def test_a_pair_hides_every_token_once_and_sizes_run_over_the_whole_range() -> None:
    """If it fails, some tokens never train the policy, or only when much or little else is hidden."""
    masks = random_masks(keys(500), 6, 2)
    assert masks.shape == (2, 500, 6) and masks.dtype == torch.bool
    assert masks.sum(2).unique().tolist() == [0, 1, 2, 3, 4, 5, 6]
    views = masking.mask_views(masks, everything(500, 6))
    assert views.hidden.shape == (4, 500, 6) and views.counted.all() and views.prompt_hidden is None
    for pair in range(2):
        assert torch.equal(views.hidden[2 * pair], masks[pair])
        assert torch.equal(views.hidden[2 * pair + 1], ~masks[pair])


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


def test_equal_keys_get_equal_masks() -> None:
    """If it fails, `share_masks` does not share, and the baseline `group` compares scores under different masks."""
    three = keys(3)
    masks = random_masks(three.repeat_interleave(4), 8, 3)
    assert torch.equal(masks, random_masks(three, 8, 3).repeat_interleave(4, dim=1))


def test_permuting_the_batch_permutes_the_masks() -> None:
    """If it fails, the order of rollouts changes the training."""
    many = keys(30)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    assert torch.equal(random_masks(many[order], 8, 2), random_masks(many, 8, 2)[:, order])


def test_draws_are_reproducible_and_pairs_and_keys_differ() -> None:
    """If it fails, several mask pairs cost time and add nothing, or a rerun trains differently.

    Two independent masks of 32 tokens coincide with probability below 1/32 (the sizes must agree), so among 100 keys
    nearly all pairs differ.
    """
    masks = random_masks(keys(100), 32, 2)
    assert torch.equal(masks, random_masks(keys(100), 32, 2))
    assert (masks[0] != masks[1]).any(1).sum() >= 90
    assert len({tuple(mask.tolist()) for mask in masks[0]}) >= 90


def test_more_pairs_leave_the_first_as_they_were() -> None:
    """If it fails, `mask_pairs` changes more than the number of pairs, and runs cannot be compared."""
    assert torch.equal(random_masks(keys(10), 8, 4)[:2], random_masks(keys(10), 8, 2))


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
    masks = trajectory_masks(keys(300), unmasked_at, 2)
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
    for pair in trajectory_masks(keys(count), unmasked_at, 4):
        assert torch.bincount(STEPS - pair.sum(1), minlength=STEPS).tolist() == [multiple] * STEPS


def test_equal_keys_take_the_same_step_of_their_own_trajectories() -> None:
    """If it fails, `share_masks` does not share: completions of a group are compared at different steps."""
    unmasked_at = trajectories(12)
    masks = trajectory_masks(keys(3).repeat_interleave(4), unmasked_at, 3)
    sizes = masks.sum(2).view(3, 3, 4)
    states = torch.stack([unmasked_at >= step for step in range(STEPS)])
    for pair in range(3):
        for group in range(3):
            rows = slice(4 * group, 4 * group + 4)
            assert any(torch.equal(masks[pair, rows], state[rows]) for state in states)
    assert bool((sizes == sizes[:, :, :1]).all())


def test_trajectory_masks_follow_only_from_the_key() -> None:
    """If it fails, the order of rollouts or the number of pairs changes which steps are trained."""
    many, unmasked_at = keys(30), trajectories(30)
    masks = trajectory_masks(many, unmasked_at, 2)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    assert torch.equal(trajectory_masks(many[order], unmasked_at[order], 2), masks[:, order])
    assert torch.equal(trajectory_masks(many, unmasked_at, 4)[:2], masks)
    assert not torch.equal(masks[0], masks[1])
