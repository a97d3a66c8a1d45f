"""What `isnet bench checkpoint` measures, in little."""

from __future__ import annotations

import itertools

import pytest

from jobs.bench import checkpoint as bench
from jobs.bench.overhead import pictures
from trainplane.data.pack import pack


@pytest.mark.real
def test_a_reader_meets_no_half_checkpoint_while_training_goes_on_and_storing_fails(tmp_path):
    pack(pictures(8), str(tmp_path), name="bench", split="train", how={})
    with bench._store() as endpoint:
        found = bench.while_failing(str(tmp_path), endpoint, polls=30)
    assert (found["polls"], found["half"]) == (30, 0)
    assert found["different"] > 1
    assert found["refused"] > 0
    assert found["spoilt"] > 0
    assert found["steps"] > bench.FAILING_EVERY * found["refused"]


def test_three_of_ten_checkpoints_are_refused_never_two_in_a_row_and_their_numbers_are_kept():
    failing = bench.Failing(seed=1)
    steps = [bench.FAILING_EVERY * number for number in range(1, 101)]
    verdicts = [failing("PUT", f"/b/run/step-{step:08d}/state.json", 0) == "denied" for step in steps]
    assert sum(verdicts) == len(failing.refused) == 30
    assert not any(one and other for one, other in itertools.pairwise(verdicts))
    assert 0.15 < failing.spoilt / failing.requests < 0.45


def test_reading_is_never_spoilt():
    failing = bench.Failing(seed=1)
    assert not any(failing("GET", f"/b/run/step-{step:08d}/state.json", 0) for step in range(100))
