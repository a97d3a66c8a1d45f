"""Samples from a failing store, with `isnet bench faults`."""

from __future__ import annotations

import hashlib
import itertools

import pytest

from jobs.bench import faults
from jobs.bench.failing_store import GLOBAL_BATCH, Epoch, bench_store, pack_samples, read_epoch
from trainplane.testing.fault_proxy import FAULTS, seeded_faults


@pytest.mark.nightly
def test_an_epoch_from_a_failing_store_is_whole_and_costs_few_more_requests(isnet) -> None:
    ran = isnet("bench", "faults", "--samples", "500", "--sample-bytes", "8K", "--seed", "3", "--json")
    assert ran.status == 0, ran.err
    report = ran.json()
    assert report["samples"] == 512
    # Each kind of fault was met.
    assert set(report["faults"]["30%"]) == set(FAULTS)
    values = {figure["name"]: figure["value"] for figure in report["figures"]}
    for rate, what in itertools.product(("0%", "1%", "10%", "30%"), ("wrong bytes", "missing", "doubled")):
        assert values[f"{what}, {rate} faults"] == 0
        assert values[f"at another place than in the clean epoch, {rate} faults"] == 0
    assert 1 < values["requests, 10% faults"] <= 1.5
    assert values["requests for shards in the second of them, 10% faults"] == 0


@pytest.mark.nightly
def test_the_bench_would_notice_wrong_missing_and_doubled_samples() -> None:
    with bench_store() as proxy:
        packed = pack_samples(4 * GLOBAL_BATCH, 600, seed=0)
        epoch = read_epoch(proxy, packed, 0.0, seed=0)
        assert epoch.wrong == 0
        spoilt = [hashlib.sha256(b"other").digest(), *packed[1:]]
        assert read_epoch(proxy, spoilt, 0.0, seed=0).wrong == 1
    doubled = Epoch((epoch.numbers[0], *epoch.numbers[:-1]), 0, 1, 1, {}, 1.0)
    values = {figure["name"]: figure["value"] for figure in faults._figures(0.1, doubled, epoch, len(packed))}
    assert values["missing, 10% faults"] == values["doubled, 10% faults"] == 1
    assert values["at another place than in the clean epoch, 10% faults"] > 0


def test_faults_come_at_their_rate_each_kind_alike_and_again_with_the_same_seed() -> None:
    spoil = seeded_faults(0.3, seed=1)
    met = [spoil("GET", "/x", number) for number in range(20_000)]
    assert met == [seeded_faults(0.3, seed=1)("GET", "/y", number) for number in range(20_000)]
    assert met != [seeded_faults(0.3, seed=2)("GET", "/x", number) for number in range(20_000)]
    assert abs(sum(kind is not None for kind in met) / 20_000 - 0.3) < 0.01
    for kind in FAULTS:
        assert abs(met.count(kind) / 20_000 - 0.3 / len(FAULTS)) < 0.006
