"""Confidence intervals of means, and paired tests between two models.

    interval(values, groups)            # of a mean, 95 %
    compare(ours, theirs, groups)       # mean difference with its interval and p-values

Pure: no I/O. Several measurements of one sample (the same photo with six holes) are not independent, so whole *groups*
are drawn, never single values. Seeded: the same numbers give the same answer on every machine. Comparisons of many
models at once are not corrected for their number.

Interval and p-value come from one test and cannot contradict each other: the interval at 95 % leaves out 0 exactly
where the two-sided p-value is below 0.05. The test flips the sign of each group's difference from a supposed mean t.
Flipping the groups of a set A makes the mean as large as the observed one exactly where the mean over A is at most t.
So p(t) counts means of random sets of groups, and the interval lies between two of their ranks (J. A. Hartigan, JASA
1969). It is exact where differences are symmetric around their mean. Up to 14 groups all sets are enumerated; above
`LARGE` groups the sums are taken for normally distributed.

Below `MIN_GROUPS` groups the two-sided p-value cannot reach 0.05, so there is no interval at 95 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Two-sided p-values below 1 - LEVEL are significant; every interval has this confidence.
LEVEL = 0.95
# 1 / (1 - LEVEL), whole, so that ranks are computed without rounding.
_ODDS = 20
# Least groups with an interval: 2 * 2**-6 is below 0.05, and 2 * 2**-5 is not.
MIN_GROUPS = 6
# Random sets of groups where there are too many to enumerate.
SETS = 9999
# Number of groups above which sums are taken for normally distributed.
LARGE = 1000
# Up to 2^14 sets are enumerated: that is quicker than drawing them.
_EXACT_GROUPS = 14
# Elements of one array of sets, 32 MiB of float64.
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
    interval: Interval | None  # None with fewer than `MIN_GROUPS` groups
    p_greater: float  # one-sided: chance of a mean at least this high if each group's sign were a fair coin's
    p_less: float  # one-sided: the same for a mean at least this low
    num_values: int
    num_groups: int

    @property
    def p_value(self) -> float:
        """Two-sided p-value."""
        return min(1.0, 2 * min(self.p_greater, self.p_less))


def interval(values: ArrayLike, groups: Sequence[int], *, seed: int = 0) -> Interval | None:
    """Interval of the mean.

    Args:
        values: Finite numbers, shape (N,).
        groups: Group number of each value.
        seed: Of the draws.

    Returns:
        None with fewer than `MIN_GROUPS` groups.
    """
    return _test(*_by_group(values, groups), seed)[0]


def compare(ours: ArrayLike, theirs: ArrayLike, groups: Sequence[int], *, seed: int = 0) -> Comparison:
    """Compares two finite series measured on the same samples.

    `groups` has the group number of each pair.
    """
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if a.shape != b.shape or a.ndim != 1 or len(a) != len(groups) or not len(a):
        raise ValueError(f"series of {a.shape} and {b.shape} with {len(groups)} groups; need equal lengths above 0")
    sums, counts = _by_group(a - b, groups)
    ends, greater, less = _test(sums, counts, seed)
    return Comparison(
        difference=float(sums.sum() / counts.sum()),
        interval=ends,
        p_greater=greater,
        p_less=less,
        num_values=len(a),
        num_groups=len(sums),
    )


def smallest_p(num_groups: int) -> float:
    """Smallest one-sided p-value; the two-sided one is twice it."""
    return max(2.0**-num_groups, 1 / (SETS + 1)) if num_groups <= LARGE else 0.0


def required_groups(p_below: float) -> int:
    """Least groups whose one-sided p can be below `p_below`."""
    enough = math.floor(-math.log2(p_below)) + 1
    return enough if smallest_p(enough) < p_below else LARGE + 1


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


def _test(sums: Floats, counts: Floats, seed: int) -> tuple[Interval | None, float, float]:
    """Interval, p of greater and p of less."""
    if len(sums) > LARGE:
        return _normal_test(sums, counts)
    means = _means_of_sets(sums, counts, seed)
    # The empty set belongs to them all; it is on both sides of any mean.
    num_sets = len(means) + 1
    greater = (int((means <= 0).sum()) + 1) / num_sets
    less = (int((means >= 0).sum()) + 1) / num_sets
    # The least rank whose two-sided p-value is 0.05 or more; rank 0 would be the empty set.
    rank = -(-num_sets // (2 * _ODDS)) - 1
    if rank < 1:
        return None, greater, less
    ordered = np.partition(means, (rank - 1, len(means) - rank))
    return Interval(float(ordered[rank - 1]), float(ordered[-rank])), greater, less


def _means_of_sets(sums: Floats, counts: Floats, seed: int) -> Floats:
    """Means over all sets of groups, or over random ones."""
    sets = _sets(len(sums), seed)
    # Sums of the same numbers in another order differ in their last bits; what should be 0 is made 0.
    smallest = 1e-12 * float(np.abs(sums).sum())
    means = []
    rows = max(1, _CHUNK // len(sums))
    for start in range(0, len(sets), rows):
        members = sets[start : start + rows].astype(np.float64)
        totals = members @ sums
        totals[np.abs(totals) <= smallest] = 0.0
        means.append(totals / (members @ counts))
    return np.concatenate(means)


# The same sets serve all metrics and bins of an evaluation.
@lru_cache(maxsize=1)
def _sets(num_groups: int, seed: int) -> NDArray[np.uint8]:
    """Sets that are not empty, rows of 0 and 1."""
    if num_groups <= _EXACT_GROUPS:
        return ((np.arange(1, 2**num_groups)[:, None] >> np.arange(num_groups)) & 1).astype(np.uint8)
    rng = np.random.Generator(np.random.Philox(key=[seed, num_groups]))
    # A random bit for each group of each set.
    packed = rng.integers(0, 256, (SETS, -(-num_groups // 8)), dtype=np.uint8)
    sets = np.unpackbits(packed, axis=1, count=num_groups)
    return sets[sets.any(axis=1)]


def _normal_test(sums: Floats, counts: Floats) -> tuple[Interval | None, float, float]:
    """The same test with normal sums."""
    # z(t) = (S - tC) / sqrt(sum of (s - tc)²)
    total, count, squares = float(sums.sum()), float(counts.sum()), float((sums**2).sum())
    z = total / math.sqrt(squares) if squares else 0.0
    # |z(t)| = Z is a quadratic equation in t: a t² - 2 b t + c = 0.
    a = count**2 - _Z**2 * float((counts**2).sum())
    b = count * total - _Z**2 * float((sums * counts).sum())
    c = total**2 - _Z**2 * squares
    root = math.sqrt(max(0.0, b * b - a * c))
    # Where one group holds most values, no mean is excluded.
    ends = Interval((b - root) / a, (b + root) / a) if a > 0 else None
    return ends, 0.5 * math.erfc(z / math.sqrt(2)), 0.5 * math.erfc(-z / math.sqrt(2))
