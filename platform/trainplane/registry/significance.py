"""How sure a table is: intervals of means, and whether two models differ on the same measurements. Pure functions.

    interval(values, groups)            # bootstrap, 95 %
    compare(ours, theirs, groups)       # mean difference with its interval, and how likely it is by chance

Several measurements of one picture (the same photo with six holes) are not independent, so whole *groups* are drawn
and flipped, never single values. Seeded: the same numbers give the same answer on every machine. Above `LARGE` groups
the normal approximation takes over, which differs there in the third digit and takes no time.
Not covered: comparing many models at once (nothing is corrected for it), and what a difference is worth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.95
RESAMPLES = 2000
FLIPS = 9999
LARGE = 5000
# 2^14 sign patterns are quicker to go through than to draw from.
_EXACT_GROUPS = 14
_CHUNK = 1 << 22

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """Both ends of what the mean may be, at `LEVEL`."""

    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Ours minus theirs on the same measurements.

    difference -- mean over all measurements; interval -- None with fewer than two groups
    p_greater, p_less -- chance of a mean at least so far up (down) if the sign of each group's difference were a coin's
    """

    difference: float
    interval: Interval | None
    p_greater: float
    p_less: float
    num_values: int
    num_groups: int

    @property
    def p_value(self) -> float:
        """Two-sided."""
        return min(1.0, 2 * min(self.p_greater, self.p_less))


def interval(values: ArrayLike, groups: Sequence[int], *, seed: int = 0) -> Interval | None:
    """The bootstrap interval (percentile) of the mean; None with fewer than two groups."""
    sums, counts = _by_group(values, groups)
    if len(sums) < 2:
        return None
    means = _large_means(sums, counts) if len(sums) > LARGE else _resampled_means(sums, counts, seed)
    low, high = means if isinstance(means, tuple) else np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def compare(ours: ArrayLike, theirs: ArrayLike, groups: Sequence[int], *, seed: int = 0) -> Comparison:
    """The paired comparison of two series that were measured on the same things, in the same order."""
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
    """Sum and number of each group's values, in the order of group numbers."""
    numbers = np.asarray(values, np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError("values must be finite; leave out or replace what is not")
    _, place = np.unique(np.asarray(groups), return_inverse=True)
    sums: Floats = np.bincount(place, weights=numbers).astype(np.float64)
    counts: Floats = np.bincount(place).astype(np.float64)
    return sums, counts


def _resampled_means(sums: Floats, counts: Floats, seed: int) -> Floats:
    """Means of `RESAMPLES` draws of as many groups as there are, with replacement."""
    rng = np.random.Generator(np.random.Philox(key=[seed, len(sums)]))
    rows = max(1, _CHUNK // len(sums))
    means = []
    for start in range(0, RESAMPLES, rows):
        # (draws, groups): how often each group was drawn
        times = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=min(rows, RESAMPLES - start))
        means.append((times @ sums) / (times @ counts))
    return np.concatenate(means)


def _large_means(sums: Floats, counts: Floats) -> tuple[float, float]:
    """The normal interval, with the variance of a ratio of sums over independent groups."""
    mean = sums.sum() / counts.sum()
    deviation = math.sqrt(float(((sums - mean * counts) ** 2).sum())) / counts.sum()
    reach = 1.959963984540054 * deviation
    return mean - reach, mean + reach


def _chances(sums: Floats, seed: int) -> tuple[float, float]:
    """P(flipped sum >= sum) and P(flipped sum <= sum), each group's sign being a fair coin's."""
    total = float(sums.sum())
    if len(sums) > LARGE:
        spread = math.sqrt(float((sums**2).sum()))
        z = total / spread if spread else 0.0
        return 0.5 * math.erfc(z / math.sqrt(2)), 0.5 * math.erfc(-z / math.sqrt(2))
    # Sums of the same numbers in another order differ in their last bits; those are ties.
    slack = 1e-12 * float(np.abs(sums).sum())
    if len(sums) <= _EXACT_GROUPS:
        patterns = (np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums))) & 1
        flipped = (1 - 2 * patterns) @ sums
        return float((flipped >= total - slack).mean()), float((flipped <= total + slack).mean())
    rng = np.random.Generator(np.random.Philox(key=[seed, len(sums)]))
    above = below = 0
    rows = max(1, _CHUNK // len(sums))
    for start in range(0, FLIPS, rows):
        signs = 1 - 2 * rng.integers(0, 2, (min(rows, FLIPS - start), len(sums)), dtype=np.int8)
        flipped = signs @ sums
        above += int((flipped >= total - slack).sum())
        below += int((flipped <= total + slack).sum())
    # The pattern that was seen is one of them, so that no chance is ever 0.
    return (above + 1) / (FLIPS + 1), (below + 1) / (FLIPS + 1)
