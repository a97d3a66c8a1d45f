"""The model of a run: limits that are known exactly, and each bottleneck where it must be."""

import math
from dataclasses import replace

import pytest

from trainplane.simulation.run_model import Fleet, Parts, faults, grown, simulate, sum_s

PARTS = Parts(
    picture_s=0.01,
    gradient_bytes=100_000_000,
    link=200e9,
    network=10e9,
    hop_s=0.0,
    decoded_per_s=10_000,
    picture_bytes=100_000,
    store_bytes_per_s=1e12,
    host_bytes_per_s=1e12,
    store_requests_per_s=1e9,
    state_bytes=10**8,
    checkpoint_s=600,
    failures_per_node_hour=0,
    start_s=10,
)
ALONE = Fleet(ranks=1, nodes=1, price_per_rank_hour=2.0)


def test_one_rank_is_its_arithmetic_and_its_price():
    result = simulate(PARTS, ALONE, global_batch=8, steps=1000)
    assert result.step_s == pytest.approx(0.08)
    assert (result.sum_s, result.efficiency, result.bottleneck) == (0, pytest.approx(1), "arithmetic")
    copies = 80 / 600 * 10**8 / 5e9
    assert result.total_s == pytest.approx(result.start_s + 80 + copies)
    assert result.cost == pytest.approx(2 * result.total_s / 3600)


def test_a_ring_sends_twice_the_bytes_less_one_part():
    fleet = Fleet(ranks=32, nodes=4)
    assert sum_s(PARTS, fleet) == pytest.approx(2 * 7 / 8 * 1e8 / 200e9 + 2 * 3 / 4 * 1e8 / 10e9)
    assert grown(fleet, 64).nodes == 8


def test_sums_hide_beside_arithmetic_up_to_their_share():
    fleet = Fleet(ranks=2, nodes=2)
    parts = replace(PARTS, network=1e9)
    assert simulate(parts, fleet, global_batch=2, steps=1).exposed_sum_s == pytest.approx(0.1)
    assert simulate(replace(parts, overlap=0.5), fleet, global_batch=2, steps=1).exposed_sum_s == pytest.approx(0.095)
    assert simulate(parts, fleet, global_batch=2, steps=1).bottleneck == "sum of gradients"


@pytest.mark.parametrize(
    ("changed", "bottleneck", "step_s"),
    [
        ({"decoded_per_s": 50.0}, "loader", 8 / 50),
        ({"store_bytes_per_s": 1e6}, "store's throughput", 8 * 100_000 / 1e6),
        ({"host_bytes_per_s": 2e6}, "store's throughput", 8 * 100_000 / 2e6),
        ({"store_requests_per_s": 1.0, "pictures_per_request": 2.0}, "store's requests", 4.0),
    ],
)
def test_what_supplies_too_little_is_the_bottleneck(changed, bottleneck, step_s):
    result = simulate(replace(PARTS, **changed), ALONE, global_batch=8, steps=10)
    assert (result.bottleneck, result.step_s) == (bottleneck, pytest.approx(step_s))


def test_ranks_that_take_turns_gain_nothing():
    alone = simulate(PARTS, ALONE, global_batch=8, steps=1)
    crowded = simulate(PARTS, Fleet(ranks=4, nodes=1, ranks_at_once=2), global_batch=8, steps=1)
    assert crowded.arithmetic_s == pytest.approx(alone.arithmetic_s / 2)


def test_failures_cost_a_start_and_half_an_interval_each():
    parts = replace(PARTS, failures_per_node_hour=0.1)
    result = simulate(parts, Fleet(ranks=80, nodes=10), global_batch=800, steps=100_000)
    assert result.failures == pytest.approx(result.total_s / 3600)
    each = result.start_s + 300
    copies = 100_000 * result.step_s / 600 * 10**8 / 5e9
    assert result.lost_s == pytest.approx((result.total_s - result.start_s) / 3600 * each + copies, rel=1e-6)
    hopeless = simulate(replace(parts, failures_per_node_hour=2), Fleet(ranks=80, nodes=10), global_batch=80, steps=1)
    assert math.isinf(hopeless.total_s)
    assert any("failures come faster" in fault for fault in faults(parts, hopeless))
