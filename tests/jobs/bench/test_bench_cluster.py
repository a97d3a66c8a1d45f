"""The order in which jobs of a queue start, as `isnet bench cluster` counts it."""

from jobs.bench.cluster import _began, _overtakings


def test_who_began_before_an_earlier_one_is_counted():
    assert _overtakings([1.0, 2.0, 3.0], 1) == 0
    assert _overtakings([1.0, 3.0, 2.0, 4.0], 1) == 1
    assert _overtakings([4.0, 1.0, 2.0, 3.0], 1) == 3
    # Two start beside each other, and may change places.
    assert _overtakings([1.0, 3.0, 2.0, 4.0], 2) == 0
    assert _overtakings([4.0, 1.0, 2.0, 3.0], 2) == 2
    assert _began("Runtime env is setting up.\nbegan 1764.5\n") == 1764.5
