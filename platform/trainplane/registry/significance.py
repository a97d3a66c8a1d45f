"""Confidence intervals of means, and paired tests between two models.

    interval(values, groups)            # bootstrap, 95 %
    compare(ours, theirs, groups)       # mean difference with its interval, and how likely it is by chance

Pure: no I/O. Several measurements of one sample (the same photo with six holes) are not independent, so whole *groups*
are drawn and flipped, never single values. Seeded: the same numbers give the same answer on every machine. Above
`LARGE` groups the normal approximation is used, which differs there in the third digit and takes no time. Comparisons
of many models at once are not corrected for their number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Confidence of every interval.
LEVEL = 0.95
RESAMPLES = 2000
FLIPS = 9999
# Number of groups above which sums are taken for normally distributed.
LARGE = 5000
# Up to 2^14 sign patterns are enumerated: that is quicker than drawing from them.
_EXACT_GROUPS = 14
# Elements of one array of draws, 32 MiB of float64.
_CHUNK = 1 << 22
# Quantile of the normal distribution at (1 + LEVEL) / 2.
_Z = 1.959963984540054

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """Interval of a mean at `LEVEL`."""

    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Ours minus theirs on the same measurements."""

    difference: float
    interval: Interval | None  # None with fewer than two groups
    p_greater: float  # chance of a mean at least this high if each group's sign were a fair coin's
    p_less: float  # the same for a mean at least this low
    num_values: int
    num_groups: int

    @property
    def p_value(self) -> float:
        """Two-sided p-value."""
        return min(1.0, 2 * min(self.p_greater, self.p_less))


def interval(values: ArrayLike, groups: Sequence[int], *, seed: int = 0) -> Interval | None:
    """Bootstrap interval (percentile) of the mean.

    Args:
        values: Finite numbers, shape (N,).
        groups: Group number of each value.
        seed: Of the draws.

    Returns:
        None with fewer than two groups.
    """
    sums, counts = _by_group(values, groups)
    if len(sums) < 2:
        return None
    means = _large_means(sums, counts) if len(sums) > LARGE else _resampled_means(sums, counts, seed)
    low, high = means if isinstance(means, tuple) else np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def compare(ours: ArrayLike, theirs: ArrayLike, groups: Sequence[int], *, seed: int = 0) -> Comparison:
    """Compares two finite series measured on the same samples.

    `groups` has the group number of each pair.
    """
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if a.shape != b.shape or a.ndim != 1 or len(a) != len(groups) or not len(a):
        raise ValueError(f"series of {a.shape} and {b.shape} with {len(groups)} groups; need equal lengths above 0")
    sums, counts = _by_group(a - b, groups)
    greater, less = _chances(sums, seed)
    return Comparison(
        difference=float(sums.sum() / counts.sum()),
        interval=interval(a - b, groups, seed=seed),
        p_greater=greater,
        p_less=less,
        num_values=len(a),
        num_groups=len(sums),
    )


def _by_group(values: ArrayLike, groups: Sequence[int]) -> tuple[Floats, Floats]:
    """Sums and counts of the groups, ordered by group number."""
    numbers = np.asarray(values, np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError("values must be finite; leave out or replace what is not")
    # Numbers of groups may have gaps.
    _, group_index = np.unique(np.asarray(groups), return_inverse=True)
    sums: Floats = np.bincount(group_index, weights=numbers).astype(np.float64)
    counts: Floats = np.bincount(group_index).astype(np.float64)
    return sums, counts


def _resampled_means(sums: Floats, counts: Floats, seed: int) -> Floats:
    """Means of `RESAMPLES` bootstrap draws of groups, with replacement."""
    rng = np.random.Generator(np.random.Philox(key=[seed, len(sums)]))
    rows = max(1, _CHUNK // len(sums))
    means = []
    for start in range(0, RESAMPLES, rows):
        # (draws, groups): how often each group was drawn
        times = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=min(rows, RESAMPLES - start))
        means.append((times @ sums) / (times @ counts))
    return np.concatenate(means)


def _large_means(sums: Floats, counts: Floats) -> tuple[float, float]:
    """Normal interval of a ratio of sums over independent groups."""
    mean = sums.sum() / counts.sum()
    # Delta method: linear in the sums around the mean.
    deviation = math.sqrt(float(((sums - mean * counts) ** 2).sum())) / counts.sum()
    reach = _Z * deviation
    return mean - reach, mean + reach


def _chances(sums: Floats, seed: int) -> tuple[float, float]:
    """P(sum >= observed) and P(sum <= observed) under random signs."""
    total = float(sums.sum())
    # Many groups: the sum is normal with mean 0.
    if len(sums) > LARGE:
        spread = math.sqrt(float((sums**2).sum()))
        z = total / spread if spread else 0.0
        return 0.5 * math.erfc(z / math.sqrt(2)), 0.5 * math.erfc(-z / math.sqrt(2))
    # Sums of the same numbers in another order differ in their last bits; those are ties.
    slack = 1e-12 * float(np.abs(sums).sum())
    # Few groups: all sign patterns.
    if len(sums) <= _EXACT_GROUPS:
        patterns = (np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums))) & 1
        flipped = (1 - 2 * patterns) @ sums
        return float((flipped >= total - slack).mean()), float((flipped <= total + slack).mean())
    rng = np.random.Generator(np.random.Philox(key=[seed, len(sums)]))
    # In between: FLIPS random patterns, a chunk at a time.
    above = below = 0
    rows = max(1, _CHUNK // len(sums))
    for start in range(0, FLIPS, rows):
        signs = 1 - 2 * rng.integers(0, 2, (min(rows, FLIPS - start), len(sums)), dtype=np.int8)
        flipped = signs @ sums
        above += int((flipped >= total - slack).sum())
        below += int((flipped <= total + slack).sum())
    # The observed pattern is one of them, so that no chance is ever 0.
    return (above + 1) / (FLIPS + 1), (below + 1) / (FLIPS + 1)
