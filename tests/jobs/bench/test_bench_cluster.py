"""The order in which jobs of a queue start, as `isnet bench cluster` counts it."""

from jobs.bench.cluster import _overtakings, _start_time


def test_a_start_before_an_earlier_job_is_counted():
    assert _overtakings([1.0, 2.0, 3.0], 1) == 0
    assert _overtakings([1.0, 3.0, 2.0, 4.0], 1) == 1
    assert _overtakings([4.0, 1.0, 2.0, 3.0], 1) == 3
    # Two start beside each other, and may change places.
    assert _overtakings([1.0, 3.0, 2.0, 4.0], 2) == 0
    assert _overtakings([4.0, 1.0, 2.0, 3.0], 2) == 2
    assert _start_time("Runtime env is setting up.\nbegan 1764.5\n") == 1764.5
