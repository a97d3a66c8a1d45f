"""Intervals and paired tests against scipy, against arithmetic, and against how often they are wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from trainplane.registry import significance
from trainplane.registry.significance import compare, interval

RNG = np.random.default_rng(5)


@pytest.mark.parametrize("count", [5, 12, 40, 300])
def test_the_paired_test_is_scipys_permutation_test(count: int) -> None:
    ours, theirs = RNG.normal(0.3, 1, count), RNG.normal(0, 1, count)
    found = compare(ours, theirs, range(count))
    for alternative, p in (("greater", found.p_greater), ("less", found.p_less), ("two-sided", found.p_value)):
        wanted = stats.permutation_test(
            (ours, theirs),
            lambda a, b, axis: np.mean(a - b, axis=axis),
            permutation_type="samples",
            alternative=alternative,
            n_resamples=9_999,
            rng=np.random.default_rng(1),
            vectorized=True,
        )
        assert p == pytest.approx(wanted.pvalue, abs=1e-9 if count <= 12 else 0.02)
    assert found.difference == pytest.approx(np.mean(ours) - np.mean(theirs))


@pytest.mark.parametrize("count", [12, 60, 400])
def test_the_interval_is_scipys_bootstrap(count: int) -> None:
    values = RNG.gamma(2.0, 3.0, count)
    wanted = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=9_999, rng=np.random.default_rng(2)
    ).confidence_interval
    found = interval(values, range(count))
    width = wanted.high - wanted.low
    assert found is not None
    assert found.low == pytest.approx(wanted.low, abs=0.06 * width)
    assert found.high == pytest.approx(wanted.high, abs=0.06 * width)


def test_all_differences_of_one_sign_have_the_smallest_chance_there_is() -> None:
    found = compare([3.0, 4.0, 5.0], [1.0, 1.0, 1.0], range(3))
    assert (found.p_greater, found.p_less, found.difference) == (1 / 8, 1.0, 3.0)
    assert compare([1.0] * 4, [1.0] * 4, range(4)).p_value == 1.0


def test_measurements_of_one_picture_count_once() -> None:
    """Six holes of each picture that say the same say it once: as many copies give the chance of a single one."""
    ours, theirs = RNG.normal(0.2, 1, 30), RNG.normal(0, 1, 30)
    once = compare(ours, theirs, range(30))
    copies = compare(np.repeat(ours, 6), np.repeat(theirs, 6), np.repeat(np.arange(30), 6).tolist())
    assert copies.p_greater == once.p_greater
    assert (copies.num_groups, copies.num_values) == (30, 180)
    assert once.interval is not None
    assert copies.interval is not None
    assert copies.interval.low == pytest.approx(once.interval.low)


def test_no_difference_is_called_one_in_twenty_times() -> None:
    rng = np.random.default_rng(11)
    called = sum(compare(rng.normal(size=25), rng.normal(size=25), range(25)).p_greater < 0.05 for _ in range(200))
    # Binomial(200, 0.05): 10 on average, beyond 22 once in ten thousand times.
    assert 1 <= called <= 22


def test_the_normal_approximation_agrees_where_it_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    values, groups = RNG.normal(0.03, 1, 4000), RNG.integers(0, 1500, 4000).tolist()
    drawn = compare(values, np.zeros(4000), groups)
    monkeypatch.setattr(significance, "LARGE", 100)
    exact = compare(values, np.zeros(4000), groups)
    assert exact.p_greater == pytest.approx(drawn.p_greater, abs=0.02)
    assert drawn.interval is not None
    assert exact.interval is not None
    assert exact.interval.low == pytest.approx(drawn.interval.low, abs=0.005)
    assert exact.interval.high == pytest.approx(drawn.interval.high, abs=0.005)


def test_the_answer_depends_on_the_numbers_alone() -> None:
    ours, theirs = RNG.normal(size=50), RNG.normal(size=50)
    assert compare(ours, theirs, range(50)) == compare(ours, theirs, range(50))
    assert compare(ours, theirs, range(50), seed=1) != compare(ours, theirs, range(50))


def test_what_cannot_be_compared_is_refused() -> None:
    assert interval([1.0, 2.0], [7, 7]) is None
    for ours, theirs, groups in (([1.0], [1.0, 2.0], [0]), ([], [], []), ([1.0], [1.0], [0, 1])):
        with pytest.raises(ValueError, match="need equal lengths"):
            compare(ours, theirs, groups)
    with pytest.raises(ValueError, match="finite"):
        compare([math.nan, 1.0], [0.0, 0.0], [0, 1])
