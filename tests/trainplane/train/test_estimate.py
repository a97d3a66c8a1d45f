"""What a run takes, from its settings: the same numbers as from walking through it step by step."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainplane.data.order import Order
from trainplane.train.config import TrainConfig
from trainplane.train.estimate import EstimateInputs, checkpoint_steps, estimate, passes_read


def config(**settings):
    return TrainConfig(**{"steps": 100, "global_batch": 8, "checkpoint_every": 10, **settings})


def known(**facts):
    values = {"done": 0, "ranks": 2, "samples": 200, "data_bytes": 1000, "val_bytes": 7}
    return EstimateInputs(**{**values, "hosts": 1, "cache_bytes": 0, "state_bytes": 50, "pictures_per_s": 4.0, **facts})


def test_the_arithmetic_of_a_whole_run():
    found = estimate(config(price_per_hour=1.8), known())
    assert (found.steps, found.pictures, found.epochs) == (100, 800, 4.0)
    assert found.bytes_read == 4 * 1000 + 7
    assert (found.checkpoints, found.bytes_written, found.checkpoints_kept) == (10, 500, 2)
    assert found.seconds == 200.0
    assert found.cost == pytest.approx(1.8 * 2 * 200 / 3600)


def test_a_run_that_goes_on_takes_only_what_is_left():
    found = estimate(config(), known(done=75))
    assert (found.steps, found.checkpoints) == (25, 3)
    nothing = estimate(config(), known(done=100))
    assert (nothing.steps, nothing.bytes_read, nothing.checkpoints, nothing.seconds) == (0, 0, 0, 0.0)


def test_a_cache_reads_every_byte_from_the_store_once():
    assert estimate(config(), known(cache_bytes=10**6)).bytes_read == 1000 + 7
    assert estimate(config(steps=10), known(cache_bytes=10**6)).bytes_read == 400 + 7


def test_half_a_cache_serves_half_of_each_later_epoch():
    assert estimate(config(), known(cache_bytes=500)).bytes_read == 1000 + 3 * 500 + 7


@pytest.mark.parametrize(("hosts", "room"), [(1, 1.0), (8, 1.0), (3, 0.4)])
def test_what_hosts_find_again_is_what_the_order_brings_back_to_them(hosts, room):
    order = Order(digest="ab" * 32, shard_sizes=[2**13], seed=10, global_batch=24)
    cached = np.zeros((hosts, 2**13), dtype=bool)
    read = 0
    for step in range(5 * order.steps_per_epoch):
        for host in range(hosts):
            samples = order.share(step, rank=host, world=hosts)
            new = samples[~cached[host, samples]]
            read += len(new)
            cached[host, new[: max(0, int(room * 2**13) - int(cached[host].sum()))]] = True
    assert read / 2**13 == pytest.approx(passes_read(5, hosts=hosts, room=room), rel=0.02)


def test_a_long_run_is_counted_at_once():
    # All of it reaches each of the 8 hosts once, in the end.
    assert passes_read(10.0**9, hosts=8, room=1.0) == pytest.approx(8, rel=1e-6)
    assert passes_read(10.0**9, hosts=8, room=0.5) == pytest.approx(5e8, rel=1e-6)


def test_without_a_rate_there_is_neither_time_nor_price_nor_a_count_of_timed_checkpoints():
    found = estimate(config(checkpoint_every="30s", price_per_hour=1.0), known(pictures_per_s=None))
    assert (found.seconds, found.cost, found.checkpoints, found.bytes_written) == (None, None, None, None)
    timed = estimate(config(checkpoint_every="30s"), known())
    assert timed.checkpoints == 7


def test_best_and_milestones_are_kept_beside_the_newest():
    found = estimate(config(keep_best=3, best_metric="val/x", keep_every=50), known())
    # 100 and 50 as milestones, 100 as the last, 90 beside it, and three best.
    assert found.checkpoints_kept == 2 + 1 + 3


@given(st.integers(1, 60), st.integers(0, 60), st.integers(1, 25), st.integers(8, 100))
def test_checkpoints_fall_where_the_loop_makes_them(steps, done, every, samples):
    found = checkpoint_steps(config(steps=steps, checkpoint_every=every), done=done, samples=samples, seconds=None)
    walked = [step for step in range(done + 1, steps + 1) if step % every == 0 or step == steps]
    assert found == walked


@given(st.integers(1, 60), st.integers(8, 100))
def test_epochs_are_counted_in_whole_batches_as_the_loop_does(steps, samples):
    found = checkpoint_steps(config(steps=steps, checkpoint_every="1 epoch"), done=0, samples=samples, seconds=None)
    per_epoch = samples // 8
    assert found == [step for step in range(1, steps + 1) if step % per_epoch == 0 or step == steps]


@given(st.integers(1, 200), st.integers(8, 100))
def test_samples_that_fill_no_batch_are_no_part_of_an_epoch(steps, samples):
    found = estimate(config(steps=steps), known(samples=samples))
    assert found.epochs == steps / (samples // 8)


@given(st.integers(1, 60), st.integers(0, 60), st.integers(1, 25))
def test_checkpoints_are_counted_as_they_fall(steps, done, every):
    settings = config(steps=steps, checkpoint_every=every)
    saved = checkpoint_steps(settings, done=done, samples=200, seconds=None)
    found = estimate(settings, known(done=done))
    assert (found.checkpoints, found.checkpoints_kept) == (len(saved), min(len(saved), 2))


@pytest.mark.parametrize("steps", [10**10, 10**23])
def test_more_steps_than_memory_has_room_for_are_reckoned_all_the_same(steps):
    found = estimate(config(steps=steps, checkpoint_every=1, keep_every=steps // 5), known())
    assert (found.checkpoints, found.bytes_written) == (steps, steps * 50)
    assert found.checkpoints_kept == 2 + 5
