"""The arithmetic of `isnet bench checkpoint`, on a few steps."""

from __future__ import annotations

import pytest

from jobs.bench.checkpoint import STEP_STARTS, StepTimes, cost_of
from trainplane.errors import RunFailed


def test_the_cost_of_a_checkpoint_follows_from_the_steps_around_it():
    """Steps of a second; one checkpoint after the third, a pause of half a second for it, five slower steps."""
    times, now = StepTimes(lambda: False), 0.0
    STEP_STARTS.clear()
    for number in range(20):
        STEP_STARTS.append(now + (0.5 if number == 3 else 0.0))
        now = STEP_STARTS[-1] + (1.2 if 3 <= number < 9 else 1.0)
        times.wall.append(now)
        times.cpu.append(now)
    row = cost_of(times, 3, arrived=times.wall[8], until=20)
    assert row["stood_still_s"] == pytest.approx(0.5)
    # The step with the copy in it is not counted among those that are compared.
    assert (row["steps"], row["slowed_s"]) == (5, pytest.approx(5 * 0.2))
    assert row["step_s"] == pytest.approx(1.0)


def test_too_few_steps_to_compare_are_refused():
    times = StepTimes(lambda: False, wall=[1.0, 2.0, 3.0, 4.0, 5.0], cpu=[1.0] * 5)
    STEP_STARTS[:] = [0.0, 1.0, 2.0, 3.0, 4.0]
    with pytest.raises(RunFailed, match="give a larger --interval"):
        cost_of(times, 1, arrived=5.0, until=5)
