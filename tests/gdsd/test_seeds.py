"""Addressed random numbers: right bits, right distribution, and nothing but the address counts."""

import math
from itertools import product

import pytest
import torch

from tasks.gdsd import seeds

WORD = 2**64


def mix(x: int) -> int:
    """The SplitMix64 finaliser as published, in Python's unbounded integers."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % WORD
    return x ^ (x >> 31)


def expected_uniform(key: int, counter: int) -> float:
    """53 bits of mix(mix(key) + (counter + 1) * golden gamma), the counter-th output of a SplitMix64 seeded by key."""
    return (mix((mix(key % WORD) + 0x9E3779B97F4A7C15 * (counter + 1)) % WORD) >> 11) / 2**53


# Three and a half standard deviations above the mean of a chi-square variable with 255 degrees of freedom.
CHI_SQUARE_LIMIT = 255 + 3.5 * math.sqrt(2 * 255)


def test_the_derivation_above_is_splitmix64() -> None:
    """If it fails, the tests below compare with the wrong generator.

    Output n of SplitMix64 is mix(seed + n * golden gamma). The first three for seed 1234567 are often quoted as test
    vectors of the reference implementation, https://prng.di.unimi.it/splitmix64.c.
    """
    outputs = [mix((1234567 + n * 0x9E3779B97F4A7C15) % WORD) for n in (1, 2, 3)]
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_uniform_equals_big_integer_arithmetic() -> None:
    """If it fails, the same run gives other tokens on another device or version of torch."""
    keys = [0, 1, -1, 2**63 - 1, -(2**63), seeds.key(0, "rollout", 3, "train-000007", 5)]
    counters = [0, 1, 15, 10**6, 2**40]
    drawn = seeds.uniform(torch.tensor(keys)[:, None], torch.tensor(counters))
    assert drawn.tolist() == [[expected_uniform(key, counter) for counter in counters] for key in keys]
    assert drawn.dtype == torch.float64


@pytest.mark.parametrize("along", ["keys", "counters"])
def test_uniform_is_uniform(along: str) -> None:
    """If it fails, samples and masks are biased.

    A uniform variable on [0, 1) has mean 1/2 and variance 1/12; the mean of n draws has standard error
    sqrt(1/(12 n)), their sample variance one of sqrt(1/(180 n)), since the fourth central moment is 1/80. Both are
    allowed 4 standard errors. Counts over 256 equal cells are chi-square with 255 degrees of freedom.
    """
    count = 100_000
    running = torch.arange(count)
    drawn = seeds.uniform(running, 3) if along == "keys" else seeds.uniform(torch.tensor(17), running)
    assert bool((drawn >= 0).all()) and bool((drawn < 1).all())
    assert drawn.mean().item() == pytest.approx(1 / 2, abs=4 * math.sqrt(1 / (12 * count)))
    assert drawn.var().item() == pytest.approx(1 / 12, abs=4 * math.sqrt(1 / (180 * count)))
    for bits in (drawn * 256, drawn * 2.0**53):  # the low ones too, or tail tokens never come
        cells = torch.bincount(bits.long() & 255, minlength=256)
        assert ((cells - count / 256) ** 2 / (count / 256)).sum().item() < CHI_SQUARE_LIMIT


def test_neighbouring_numbers_are_uncorrelated() -> None:
    """If it fails, neighbouring positions or sequences get related tokens.

    Independent uniforms have correlation 0 with standard error 1/sqrt(n).
    """
    grid = seeds.uniform(torch.arange(300)[:, None], torch.arange(300))
    for first, second in ((grid[:, :-1], grid[:, 1:]), (grid[:-1], grid[1:]), (grid, grid.T)):
        keep = first != second  # the diagonal of the transposed pair
        pair = torch.stack([first[keep], second[keep]])
        assert abs(torch.corrcoef(pair)[0, 1].item()) < 4 / math.sqrt(pair.shape[1] / 2)


def test_a_number_does_not_depend_on_its_batch() -> None:
    """If it fails, batch size, shard count or resuming changes tokens."""
    keys, counter = torch.tensor([seeds.key(0, index) for index in range(40)]), torch.arange(11)
    together = seeds.uniform(keys[:, None], counter)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    assert torch.equal(seeds.uniform(keys[order][:, None], counter), together[order])
    assert torch.equal(torch.stack([seeds.uniform(key, counter) for key in keys]), together)
    assert torch.equal(seeds.uniform(keys, 7), together[:, 7])


def test_keys_are_64_bit_and_stay_the_same() -> None:
    """If it fails, a finished run cannot be reproduced by this version.

    The first 8 bytes, 0x1ff533c1927cc40a, that `printf 'int:0\\x1fstr:rollout\\x1fint:1' | sha256sum` prints.
    """
    assert seeds.key(0, "rollout", 1) == 0x1FF533C1927CC40A
    keys = [seeds.key(0, index) for index in range(100)]
    assert -(2**63) <= min(keys) < 0 < max(keys) < 2**63  # torch.tensor(keys) must not overflow


def test_different_addresses_have_different_keys() -> None:
    """If it fails, two purposes of a run share their random numbers, or prompt 1 and a prompt called "1" do."""
    runs, purposes = range(20), ("a", "b", "ab")
    addresses: list[tuple[int | str, ...]] = [(*pair, part) for pair in product(runs, purposes) for part in range(20)]
    addresses += [*product(runs, purposes), (1,), ("1",), (1, 23), (12, 3), (23, 1), ("1", 23), (1, "23"), (123,)]
    addresses += [("a", "b"), ("ab",), ("b", "a"), ("a", "b", ""), ("", "a", "b"), (-1,), ("-1",)]
    assert len({seeds.key(*address) for address in addresses}) == len(addresses)


def test_generators_are_addressed_too() -> None:
    """If it fails, the initial weights or the order of prompts change from run to run, or coincide."""
    drawn = [torch.rand(4, generator=seeds.generator(0, purpose)).tolist() for purpose in ("x", "y", "x")]
    assert drawn[0] == drawn[2] != drawn[1]
