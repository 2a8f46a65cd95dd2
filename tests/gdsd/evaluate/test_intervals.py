"""Intervals: as published, and as wide as chance demands, also where a problem is answered several times."""

from itertools import combinations
from statistics import fmean

import numpy as np
import pytest

from tasks.gdsd.config.evaluate import GateConfig
from tasks.gdsd.evaluate import intervals
from tasks.gdsd.records import Estimate

JUDGE = GateConfig(margin=0.0, confidence=0.95, resamples=2000)


@pytest.mark.parametrize(
    "successes, trials, low, high",
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (10, 10, 0.7225, 1.0),
    ],
)
def test_wilson_as_published(successes: int, trials: int, low: float, high: float) -> None:
    """If it fails, the reported intervals are not Wilson's. Values: Newcombe 1998, Statistics in
    Medicine, table I; the last one, where nothing failed, is 1 / (1 + 1.96^2 / 10)."""
    estimate = intervals.wilson(successes, trials, 0.95)
    assert estimate.mean == successes / trials
    assert estimate.low == pytest.approx(low, abs=5e-5)
    assert estimate.high == pytest.approx(high, abs=5e-5)


def test_wilson_holds_its_share() -> None:
    """If it fails, an interval misses its own mean by rounding, and the report's error bars, which refuse negative
    lengths, end the run in its last stage; most easily where nothing or everything is solved."""
    missed = [
        (successes, trials)
        for trials in range(1, 300)
        for successes in {0, 1, trials // 2, trials - 1, trials}
        for estimate in [intervals.wilson(successes, trials, 0.95)]
        if not 0 <= estimate.low <= estimate.mean <= estimate.high <= 1
    ]
    assert missed == []


def test_normal_by_hand() -> None:
    """If it fails, the reported interval of the reward is wrong.

    Values 0, 1, 0.5, 0.5: mean 0.5, unbiased variance 0.5 / 3, so 1.959964 * sqrt(0.5 / 3) / 2 = 0.400076 each side.
    """
    estimate = intervals.normal([0.0, 1.0, 0.5, 0.5], 0.95)
    assert (estimate.mean, estimate.low, estimate.high) == pytest.approx((0.5, 0.099924, 0.900076), abs=1e-6)
    assert intervals.normal([0.7], 0.95) == Estimate(mean=0.7, low=0.7, high=0.7)


@pytest.mark.parametrize("confidence, low, high", [(0.51, 0.0, 2 / 3), (0.9, 0.0, 2 / 3), (0.95, 0.0, 1.0)])
def test_bootstrap_against_enumeration(confidence: float, low: float, high: float) -> None:
    """If it fails, the gate decides on another interval than the one it names.

    Resampling 0, 0, 1 gives means k/3 with k binomial (3, 1/3): cumulative 8/27 = 0.296, 20/27 = 0.741, 26/27 = 0.963,
    1. Quantiles 0.245 and 0.755 are 0 and 2/3; 0.05 and 0.95 are 0 and 2/3; 0.025 and 0.975 are 0 and 1.
    """
    config = GateConfig(confidence=confidence, resamples=10_000)
    estimate = intervals.bootstrap(np.array([0.0, 0.0, 1.0]), config)
    assert (estimate.mean, estimate.low, estimate.high) == pytest.approx((1 / 3, low, high))


def test_bootstrap_of_many_is_nearly_normal() -> None:
    """If it fails, intervals are too narrow or too wide.

    For 400 differences the percentile interval is mean -+ 1.96 sd / sqrt(400) up to skewness and the noise of 2,000
    resamples, which moves a 2.5 % quantile by about 3 % of the half-width; 15 % is allowed.
    """
    differences = np.random.default_rng(1).choice([-1.0, 0.0, 1.0], size=400, p=[0.1, 0.6, 0.3])
    estimate = intervals.bootstrap(differences, JUDGE)
    half = 1.96 * differences.std() / 20
    assert estimate.mean == pytest.approx(differences.mean())
    assert estimate.mean - estimate.low == pytest.approx(half, rel=0.15)
    assert estimate.high - estimate.mean == pytest.approx(half, rel=0.15)


def test_bootstrap_is_reproducible_and_takes_any_number_of_resamples() -> None:
    """If it fails, judging twice can decide differently, or `resamples` is rounded to the size of a chunk."""
    differences = np.linspace(-0.2, 0.9, 30)
    assert intervals.bootstrap(differences, JUDGE) == intervals.bootstrap(differences, JUDGE)
    found = {
        intervals.bootstrap(differences, GateConfig(resamples=count)).low for count in (100, 999, 1000, 1001, 2500)
    }
    assert len(found) == 5
    assert intervals.bootstrap(np.full(5, 0.25), JUDGE) == Estimate(mean=0.25, low=0.25, high=0.25)


# pass@k


@pytest.mark.parametrize("answers", [1, 2, 5, 8])
def test_pass_at_k_is_the_mean_over_all_choices_of_k_answers(answers: int) -> None:
    """If it fails, pass@k is biased. Expected: of all k-subsets of the answers, the share with a right one in it."""
    for right in range(answers + 1):
        solved = [index < right for index in range(answers)]
        for k in range(1, answers + 1):
            expected = fmean(any(chosen) for chosen in combinations(solved, k))
            assert intervals.pass_at(answers, right, k) == pytest.approx(expected, abs=1e-12)


# Shares of several answers to each problem


@pytest.mark.parametrize("right, size", [(0, 12), (1, 12), (6, 12), (12, 12), (81, 263)])
def test_one_answer_per_problem_gives_wilson(right: int, size: int) -> None:
    """If it fails, the usual evaluation reports another interval than the documented one."""
    values = [float(index < right) for index in range(size)]
    found, expected = intervals.share(values, size, 0.95), intervals.wilson(right, size, 0.95)
    assert (found.mean, found.low, found.high) == pytest.approx((expected.mean, expected.low, expected.high))


def test_more_answers_to_the_same_problems_are_not_more_problems() -> None:
    """If it fails, asking each problem 16 times passes for having asked 16 times as many problems.

    Problems that are always or never solved tell by 16 answers what they tell by one; problems that are all alike
    tell as much as independent answers, and no shares tell more.
    """
    fixed = [1.0] * 30 + [0.0] * 20
    assert intervals.share(fixed, 50 * 16, 0.95) == intervals.share(fixed, 50, 0.95)
    for all_alike, right in ((1.0, 20), (0.0, 0)):
        assert intervals.share([all_alike] * 20, 160, 0.95) == intervals.wilson(right, 20, 0.95)
    source = np.random.default_rng(0)
    for _ in range(200):
        problems, samples = int(source.integers(2, 40)), int(source.integers(1, 9))
        values = (source.binomial(samples, source.random(problems)) / samples).tolist()
        found = intervals.share(values, problems * samples, 0.95)
        width = found.high - found.low
        narrowest = intervals.wilson(fmean(values) * problems * samples, problems * samples, 0.95)
        widest = intervals.wilson(fmean(values) * problems, problems, 0.95)
        assert narrowest.high - narrowest.low - 1e-12 <= width <= widest.high - widest.low + 1e-12
        assert 0 <= found.low <= found.mean <= found.high <= 1


@pytest.mark.parametrize("alpha, beta", [(1.0, 1.0), (0.3, 0.3), (9.0, 1.0), (0.9, 0.1)])
def test_intervals_cover_the_truth(alpha: float, beta: float) -> None:
    """If it fails, 95 % is only a word. 400 evaluations of 60 problems, 4 answers each, whose difficulty is drawn.

    Of 400, 380 are expected within, with a standard deviation of 4.4; the approximation may cost 2 %.
    """
    source = np.random.default_rng(1)
    truth, within = alpha / (alpha + beta), 0
    for _ in range(400):
        values = source.binomial(4, source.beta(alpha, beta, 60)) / 4
        found = intervals.share(values.tolist(), 240, 0.95)
        within += found.low <= truth <= found.high
    assert within >= 0.91 * 400


# Few pairs that differ


def test_pairs_that_never_differ_are_no_certainty() -> None:
    """If it fails, a guard holds on a handful of problems of which none changed, and one lucky problem promotes.

    Of 16 pairs none differs: with one more of each kind the variance is (1 + 1) / 18, so half the interval is
    1.96 * sqrt(2) / 18.
    """
    found = intervals.difference(np.zeros(16), JUDGE)
    assert found.mean == 0 and found.high == -found.low == pytest.approx(1.959964 * 2**0.5 / 18, abs=1e-6)
    assert intervals.difference(np.ones(1), JUDGE).low < 0
    assert intervals.difference(np.zeros(10_000), JUDGE).low > -0.001
    enough = np.array([1.0] * intervals.FEW + [0.0] * 30)
    assert intervals.difference(enough, JUDGE) == intervals.bootstrap(enough, JUDGE)


@pytest.mark.parametrize("drop, size", [(0.05, 32), (0.1, 16), (0.02, 64)])
def test_a_drop_is_rarely_missed(drop: float, size: int) -> None:
    """If it fails, a policy that got worse passes its guards because few problems were asked.

    Simulated: the upper end of a 95 % interval may lie below 0 by chance, its lower end above the truth in
    2.5 % of runs.
    """
    source = np.random.default_rng(0)
    runs = [intervals.difference(-(source.random(size) < drop).astype(float), JUDGE) for _ in range(500)]
    assert np.mean([found.low > -drop for found in runs]) <= 0.03


def test_slope_by_hand() -> None:
    """1, 2, 4: slope 1.5, residual variance 1/6 over sum of squares 2, so error sqrt(1/12); t(0.975, 1) = 12.706.

    If what never changes had an interval of nan, a reward that stands still would raise no alarm.
    """
    found, half = intervals.slope(np.array([1.0, 2.0, 4.0])), 12.7062 * (1 / 12) ** 0.5
    assert (found.mean, found.low, found.high) == pytest.approx((1.5, 1.5 - half, 1.5 + half), rel=1e-4)
    for value in (0.0, 0.3):
        assert intervals.slope(np.full(30, value)) == Estimate(mean=0.0, low=0.0, high=0.0)
