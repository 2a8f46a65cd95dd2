"""Estimates with intervals: shares, means, paired differences, and pass@k."""

import math
import statistics
from collections.abc import Sequence

import numpy as np

from tasks.gdsd.config.evaluate import GateConfig
from tasks.gdsd.records import Estimate

FEW = 10  # pairs that differ, below which a bootstrap does not know the tails


def difference(gains: np.ndarray, config: GateConfig) -> Estimate:
    """Returns the mean of paired differences of shares with its interval: a bootstrap, where enough pairs differ.

    Where fewer than `FEW` do, a bootstrap is too narrow, and a point where none does. There the interval is Bonett and
    Price's for paired shares (2012, Brit. J. Math. Stat. Psychol. 65), which counts a pair more of each kind that
    differs.
    """
    if (gains != 0).sum() >= FEW:
        return bootstrap(gains, config)
    z = statistics.NormalDist().inv_cdf((1 + config.confidence) / 2)
    seen = np.append(gains, [1.0, -1.0])
    half = z * math.sqrt(seen.var() / len(seen))
    mean, centre = float(gains.mean()), float(seen.mean())
    return Estimate(mean=mean, low=max(-1.0, min(mean, centre - half)), high=min(1.0, max(mean, centre + half)))


def bootstrap(differences: np.ndarray, config: GateConfig) -> Estimate:
    """Returns the mean of paired differences with a percentile bootstrap interval, reproducibly."""
    source = np.random.default_rng(0)
    size = len(differences)
    chunks = [min(1000, config.resamples - done) for done in range(0, config.resamples, 1000)]  # bounds memory
    means = np.concatenate([differences[source.integers(size, size=(chunk, size))].mean(1) for chunk in chunks])
    tail = (1 - config.confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Estimate(mean=float(differences.mean()), low=float(low), high=float(high))


def share(values: Sequence[float], most: int, confidence: float) -> Estimate:
    """Returns the mean of shares in [0, 1], one per problem, with a Wilson interval over problems.

    The trials of the interval are the effective ones: as many independent answers as would give the mean the variance
    that the problems' shares give it (Kish's design effect). With one answer per problem they are the problems, and
    never more than `most`, which is the number of answers. Shares that are all the same tell nothing of how problems
    differ, as where every answer is right: the trials are then the problems.
    """
    mean = statistics.fmean(values)
    variance = statistics.fmean((value - mean) ** 2 for value in values) / len(values)
    trials = min(float(most), mean * (1 - mean) / variance) if variance > 0 else float(len(values))
    return wilson(mean * trials, trials, confidence)


def wilson(successes: float, trials: float, confidence: float) -> Estimate:
    """Returns a share with its Wilson score interval, which stays in [0, 1] and is not empty at 0 or 1."""
    z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    share = min(1.0, successes / trials)
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    # At 0 and at 1 an end of the interval is the share itself, which rounding would miss.
    return Estimate(mean=share, low=max(0.0, min(share, centre - half)), high=min(1.0, max(share, centre + half)))


def normal(values: list[float], confidence: float) -> Estimate:
    """Returns a mean with its normal interval."""
    z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    mean = statistics.fmean(values)
    half = z * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return Estimate(mean=mean, low=mean - half, high=mean + half)


def slope(values: np.ndarray) -> Estimate:
    """Returns the least-squares slope of equally spaced values, with its 95 % Student t interval (independent errors).

    At least three values; those of a line have an interval without width.
    """
    from scipy.stats import linregress, t

    found = linregress(np.arange(len(values)), values)
    error = 0.0 if np.ptp(values) == 0 else found.stderr  # which scipy does not know of values that are all equal
    half = float(t.ppf(0.975, len(values) - 2) * error)
    return Estimate(mean=float(found.slope), low=float(found.slope) - half, high=float(found.slope) + half)


def pass_at(answers: int, right: int, k: int) -> float:
    """Returns the unbiased estimate of the chance that one of k answers is right (arXiv 2107.03374, eq. 1)."""
    return 1.0 - math.comb(answers - right, k) / math.comb(answers, k)
