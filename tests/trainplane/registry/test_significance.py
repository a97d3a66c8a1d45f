"""Intervals and paired tests against scipy, against each other, and against how often they are wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from trainplane.registry import significance
from trainplane.registry.significance import MIN_GROUPS, compare, interval, smallest_p

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
def test_a_mean_at_either_end_of_the_interval_has_the_p_value_of_the_level(count: int) -> None:
    """The same by scipy's test, which knows nothing of intervals: inside p is above 0.05, outside below."""
    values = RNG.gamma(2.0, 3.0, count)
    found = interval(values, range(count))
    assert found is not None
    assert found.low < np.mean(values) < found.high
    width = found.high - found.low
    for mean, is_inside in ((found.low, True), (found.low - 0.05 * width, False), (found.high + 0.05 * width, False)):
        p = stats.permutation_test(
            (values, np.full(count, mean)),
            lambda a, b, axis: np.mean(a - b, axis=axis),
            permutation_type="samples",
            n_resamples=9_999,
            rng=np.random.default_rng(1),
            vectorized=True,
        ).pvalue
        assert p == pytest.approx(0.05, abs=0.012) if is_inside else p < 0.05


@given(
    st.lists(
        st.tuples(st.integers(0, 19), st.floats(-10, 10, allow_subnormal=False).map(lambda x: round(x, 3))),
        min_size=1,
        max_size=60,
    )
)
def test_the_interval_leaves_out_zero_exactly_where_p_is_below_its_level(pairs: list[tuple[int, float]]) -> None:
    groups, values = [group for group, _ in pairs], [value for _, value in pairs]
    found = compare(values, np.zeros(len(values)), groups)
    assert (found.interval is None) == (found.num_groups < MIN_GROUPS)
    if found.interval is None:
        assert found.p_value >= 0.05
    else:
        assert found.interval.low <= found.interval.high
        assert (not found.interval.low <= 0 <= found.interval.high) == (found.p_value < 0.05)


@pytest.mark.parametrize("count", [6, 9, 15, 80, 1500])
def test_interval_and_p_agree_around_the_level(count: int) -> None:
    """Shifted so far that 0 is at an end of the interval: there the two change sides together."""
    values = np.random.default_rng(count).standard_t(3, count)
    groups = np.random.default_rng(count).integers(0, count, count).tolist() if count > 20 else list(range(count))
    ends = interval(values, groups)
    assert ends is not None
    for shift in (-ends.low, -ends.high, -ends.low - 1e-6, -ends.low + 1e-6, -ends.high + 1e-6, -ends.high - 1e-6):
        moved = compare(values + shift, np.zeros(count), groups)
        assert moved.interval is not None
        assert (not moved.interval.low <= 0 <= moved.interval.high) == (moved.p_value < 0.05)


def test_a_few_pictures_have_no_interval_and_say_so_by_their_smallest_p() -> None:
    for count in (1, 2, 4, 5):
        found = compare([9.0] * count, [1.0] * count, range(count))
        assert found.interval is None
        assert found.p_greater == smallest_p(count) == 2.0**-count
    six = compare([9.0] * 6, [1.0] * 6, range(6))
    assert (six.interval is not None, six.p_value) == (True, 2 * smallest_p(6))
    assert 2 * smallest_p(5) >= 0.05 > 2 * smallest_p(6)


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
    values, groups = RNG.normal(0.03, 1, 4000), RNG.integers(0, 900, 4000).tolist()
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


@pytest.mark.nightly
@pytest.mark.parametrize("count", [6, 10, 25, 100])
@pytest.mark.parametrize("kind", ["normal", "heavy-tailed", "skewed"])
def test_how_often_the_interval_holds_the_true_mean(kind: str, count: int) -> None:
    """Coverage by simulation, six values a group that vary together; `-s` prints the figure."""
    rng = np.random.default_rng(7)
    draw = {
        "normal": lambda size: rng.normal(size=size),
        "heavy-tailed": lambda size: rng.standard_t(3, size=size),
        "skewed": lambda size: rng.gamma(2.0, 1.0, size=size) - 2.0,
    }[kind]
    groups, rounds = np.repeat(np.arange(count), 6).tolist(), 2000
    covered = 0
    for _ in range(rounds):
        ends = interval(np.repeat(draw(count), 6) + 0.3 * draw(6 * count), groups)
        covered += ends is not None and ends.low <= 0 <= ends.high
    print(f"{kind}, {count} groups: {100 * covered / rounds:.1f} % of {rounds}")
    # Symmetric data: at least the level, short of chance. Skewed data: the price of few pictures, no more.
    assert covered / rounds > (0.9 if kind == "skewed" else 0.935)


def test_what_cannot_be_compared_is_refused() -> None:
    assert interval([1.0, 2.0], [7, 7]) is None
    for ours, theirs, groups in (([1.0], [1.0, 2.0], [0]), ([], [], []), ([1.0], [1.0], [0, 1])):
        with pytest.raises(ValueError, match="need equal lengths"):
            compare(ours, theirs, groups)
    with pytest.raises(ValueError, match="finite"):
        compare([math.nan, 1.0], [0.0, 0.0], [0, 1])
