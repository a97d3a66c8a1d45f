"""Readers meet no half checkpoint while storing fails (promise 4)."""

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
        counts = failing.while_failing(str(tmp_path), f"{bench.BUCKET}/failing", endpoint, polls=30, different=4)
    assert counts["half"] == 0
    assert counts["polls"] >= 30
    # Steps 2, 4, 8 and 10 are stored, step 6 is refused.
    assert counts["different"] >= 4
    assert counts["refused"] > 0
    assert counts["spoilt"] > 0
    assert counts["steps"] > failing.FAILING_EVERY * counts["refused"]


def test_three_of_ten_checkpoints_are_refused_never_two_in_a_row_and_their_numbers_are_kept():
    refusing = failing.Failing(seed=1)
    steps = [failing.FAILING_EVERY * number for number in range(1, 101)]
    verdicts = [refusing("PUT", f"/b/run/step-{step:08d}/state.json", 0) == "denied" for step in steps]
    assert sum(verdicts) == len(refusing.refused) == 30
    assert not any(refused and next_refused for refused, next_refused in itertools.pairwise(verdicts))
    assert 0.15 < refusing.spoilt / refusing.requests < 0.45


def test_reading_is_never_spoilt():
    refusing = failing.Failing(seed=1)
    assert not any(refusing("GET", f"/b/run/step-{step:08d}/state.json", 0) for step in range(100))
