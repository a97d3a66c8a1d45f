"""What `isnet bench checkpoint` measures, in little."""

from __future__ import annotations

import pytest

from jobs.bench import checkpoint_stalls as stalls
from jobs.bench.checkpoint_task import BEGUN
from trainplane.errors import RunFailed


def test_what_a_checkpoint_takes_is_told_from_the_steps_around_it():
    """Steps of a second; one checkpoint after the third, a pause of half a second for it, five slower steps."""
    times, now = stalls.Times(lambda: False), 0.0
    BEGUN.clear()
    for number in range(20):
        BEGUN.append(now + (0.5 if number == 3 else 0.0))
        now = BEGUN[-1] + (1.2 if 3 <= number < 9 else 1.0)
        times.wall.append(now)
        times.cpu.append(now)
    row = stalls._row(times, 3, arrived=times.wall[8], until=20)
    assert row["stood_still_s"] == pytest.approx(0.5)
    # The step with the copy in it is not counted among those that are compared.
    assert (row["steps"], row["slowed_s"]) == (5, pytest.approx(5 * 0.2))
    assert row["step_s"] == pytest.approx(1.0)


def test_too_few_steps_to_compare_are_said():
    times = stalls.Times(lambda: False, wall=[1.0, 2.0, 3.0, 4.0, 5.0], cpu=[1.0] * 5)
    BEGUN[:] = [0.0, 1.0, 2.0, 3.0, 4.0]
    with pytest.raises(RunFailed, match="give a larger --interval"):
        stalls._row(times, 1, arrived=5.0, until=5)
