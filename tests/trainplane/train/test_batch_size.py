"""One global batch at any number of ranks, and cadences as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainplane.train.batch_size import admissible_ranks, memory_limit, ranks_for, smaller_micro_batch, split_batch
from trainplane.train.config import Cadence

sizes = st.integers(1, 96)


@given(sizes, sizes, st.one_of(st.none(), sizes))
def test_the_global_batch_is_the_same_at_every_admissible_number_of_ranks(batch, ranks, micro):
    numbers = admissible_ranks(global_batch=batch, low=1, high=ranks, micro_batch=None)
    assert 1 in numbers
    for n in numbers:
        cut = split_batch(global_batch=batch, ranks=n, micro_batch=micro)
        assert cut.ranks * cut.micro_batch * cut.accumulation == batch
        assert cut.micro_batch <= (micro or batch)


@given(sizes, sizes, sizes)
def test_ranks_are_rounded_down_to_what_divides(batch, high, room):
    found = ranks_for(admissible_ranks(global_batch=batch, low=1, high=high, micro_batch=None), capacity=room)
    assert found is not None
    assert batch % found == 0
    assert found <= min(room, high)
    assert not any(batch % n == 0 for n in range(found + 1, min(room, high) + 1))


def test_five_places_for_a_batch_of_eight_make_four_ranks():
    assert ranks_for([2, 4, 8], capacity=5) == 4
    assert ranks_for([2, 4, 8], capacity=1) is None


def test_a_fixed_micro_batch_limits_the_number_of_ranks():
    assert admissible_ranks(global_batch=24, low=1, high=8, micro_batch=4) == [1, 2, 3, 6]


@given(sizes)
def test_halving_ends_at_one_picture_and_always_divides_the_share(share):
    tried, halved = share, []
    while (tried := smaller_micro_batch(share, tried)) is not None:
        halved.append(tried)
    assert all(share % size == 0 for size in halved)
    assert halved == sorted(halved, reverse=True)
    assert share == 1 or halved[-1] == 1


def test_the_arithmetic_reads_as_a_sentence():
    cut = split_batch(global_batch=64, ranks=4, micro_batch=8)
    assert str(cut) == "64 samples a step = 4 ranks × 8 at once × 2 in turn"


@pytest.mark.parametrize(
    ("text", "steps"),
    [(500, 500), ("500", None), ("1 epoch", 40), ("0.5 epochs", 20), ("90s", None), ("5min", None), ("3 steps", 3)],
)
def test_cadences_are_read_as_people_write_them(text, steps):
    if text == "500":
        with pytest.raises(ValueError, match="is no cadence"):
            Cadence.of(text)
    else:
        assert Cadence.of(text).steps(40) == steps


def test_times_are_seconds():
    assert [Cadence.of(t).amount for t in ("90s", "5min", "2h", "1.5 minutes")] == [90, 300, 7200, 90]


@pytest.mark.parametrize("text", [0, -1, "0s", "2.5 steps", "soon", "5 lightyears"])
def test_what_is_no_cadence_is_refused(text):
    with pytest.raises(ValueError, match="is no cadence"):
        Cadence.of(text)


def test_a_micro_batch_is_limited_by_memory_that_ran_out_and_by_nothing_else():
    # Nothing ran out on eight ranks of two samples each: on two ranks the eight samples of each are tried at once.
    limit = memory_limit(None, {}, 100)
    assert limit == (None, 100)
    stored = {"micro_batch": 2, "memory_limit": list(limit)}
    limit, _ = memory_limit(None, stored, 100)
    assert split_batch(global_batch=16, ranks=2, micro_batch=limit).micro_batch == 8
    # Eight did not fit: four stays the limit, at any number of ranks and after a kill.
    assert memory_limit(4, stored, 100) == (4, 100)
    stored = {"micro_batch": 4, "memory_limit": [4, 100]}
    assert memory_limit(None, stored, 100) == (4, 100)
    # A device with more memory may hold more.
    assert memory_limit(None, stored, 200) == (None, 200)
    assert memory_limit(None, stored, 50) == (4, 50)
    # A checkpoint of older code.
    assert memory_limit(None, {"micro_batch": 2}, 100) == (2, 100)
