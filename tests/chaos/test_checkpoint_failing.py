"""Readers meet no half checkpoint while storing checkpoints fails (promise 4)."""

import itertools

import checkpoint_failing as failing
import pytest

from jobs.bench import checkpoint as bench
from jobs.bench.overhead import pictures
from trainplane.data.pack.pack import pack


@pytest.mark.chaos
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
