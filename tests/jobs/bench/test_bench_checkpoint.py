"""What `isnet bench checkpoint` measures, in little."""

from __future__ import annotations

import itertools

import pytest

from jobs.bench import checkpoint as bench
from jobs.bench import checkpoint_failing as failing
from jobs.bench import checkpoint_stalls as stalls
from jobs.bench.checkpoint_task import BEGUN
from jobs.bench.overhead import pictures
from trainplane.data.pack.pack import pack
from trainplane.errors import RunFailed


@pytest.mark.nightly
def test_a_reader_meets_no_half_checkpoint_while_training_goes_on_and_storing_fails(tmp_path):
    pack(pictures(8), str(tmp_path), name="bench", split="train", how={})
    with bench.store() as endpoint:
        found = failing.while_failing(str(tmp_path), f"{bench.BUCKET}/failing", endpoint, polls=30, different=4)
    assert found["half"] == 0
    assert found["polls"] >= 30
    # Steps 2, 4, 8 and 10 are stored, step 6 is refused.
    assert found["different"] >= 4
    assert found["refused"] > 0
    assert found["spoilt"] > 0
    assert found["steps"] > failing.FAILING_EVERY * found["refused"]


def test_three_of_ten_checkpoints_are_refused_never_two_in_a_row_and_their_numbers_are_kept():
    refusing = failing.Failing(seed=1)
    steps = [failing.FAILING_EVERY * number for number in range(1, 101)]
    verdicts = [refusing("PUT", f"/b/run/step-{step:08d}/state.json", 0) == "denied" for step in steps]
    assert sum(verdicts) == len(refusing.refused) == 30
    assert not any(one and other for one, other in itertools.pairwise(verdicts))
    assert 0.15 < refusing.spoilt / refusing.requests < 0.45


def test_reading_is_never_spoilt():
    refusing = failing.Failing(seed=1)
    assert not any(refusing("GET", f"/b/run/step-{step:08d}/state.json", 0) for step in range(100))


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
