"""`isnet bench faults`: an epoch from a failing S3 server.

A dataset of random bytes is packed into a local S3 server (moto). Two ranks' loaders then read the epoch through a
proxy that spoils a seeded share of all requests: errors 500 and 503, expired tokens, connections reset in mid body,
short bodies under the right length and under their own, silence, 10 kB/s, flipped bits, answers to other ranges. Then
the store goes away in the middle of an epoch, for all ranks or for one of them (`outages.py`). The samples are compared
with the packed ones. The epoch is also read twice with a cache on disk. Not covered: decoding, and faults of the stored
bytes themselves.
"""

from __future__ import annotations

import argparse
import tempfile

from jobs.bench.common import Figure, figure, report
from jobs.bench.failing_store import GLOBAL_BATCH, Epoch, bench_store, pack_samples, read_epoch
from jobs.bench.outages import outage_figures
from trainplane.data.read.cache_dir import CacheConfig

RATES = (0.0, 0.01, 0.1, 0.3)
_MAX_REQUESTS = {0.1: 1.5}  # at this rate, times those of the clean epoch


def faults(args: argparse.Namespace) -> int:
    """`isnet bench faults`."""
    # Rounded up to whole batches: no sample of the epoch may be left over.
    count = -(-args.samples // GLOBAL_BATCH) * GLOBAL_BATCH
    with bench_store() as proxy, tempfile.TemporaryDirectory(prefix="isnet-bench-") as folder:
        packed = pack_samples(count, args.sample_bytes, seed=args.seed)
        epochs = {rate: read_epoch(proxy, packed, rate, seed=args.seed) for rate in RATES}
        # The second cached epoch must come from the disk alone.
        cache = CacheConfig(folder, 1 << 40)
        cached = [read_epoch(proxy, packed, 0.1, seed=args.seed, cache=cache, number=number) for number in (0, 1)]
        outages = outage_figures(proxy, packed, epochs[0.0], seed=args.seed, clock=args.clock)
    clean = epochs[0.0]
    figures = [row for rate, epoch in epochs.items() for row in _figures(rate, epoch, clean, count)]
    wrong, shard_requests = sum(epoch.wrong for epoch in cached), cached[1].shard_requests
    figures += [
        figure("wrong bytes, two cached epochs, 10% faults", wrong, "samples", "≤ 0"),
        figure("requests for shards in the second of them, 10% faults", shard_requests, "requests", "≤ 0"),
        figure("wall time of the second of them, 10% faults", cached[1].wall_s / clean.wall_s, "× clean"),
        *outages,
    ]
    return report(
        args,
        figures,
        samples=count,
        clean={"requests": clean.requests, "wall_s": round(clean.wall_s, 2)},
        faults={f"{rate:.0%}": dict(sorted(epoch.faults.items())) for rate, epoch in epochs.items()},
    )


def _figures(rate: float, epoch: Epoch, clean: Epoch, count: int) -> list[Figure]:
    at, distinct = f"{rate:.0%} faults", len(set(epoch.numbers))
    # Every epoch of one seed must have one order, faults or not.
    misplaced = sum(number != expected for number, expected in zip(epoch.numbers, clean.numbers, strict=True))
    max_requests = f"≤ {_MAX_REQUESTS[rate]}" if rate in _MAX_REQUESTS else None
    return [
        figure(f"wrong bytes, {at}", epoch.wrong, "samples", "≤ 0"),
        figure(f"missing, {at}", count - distinct, "samples", "≤ 0"),
        figure(f"doubled, {at}", len(epoch.numbers) - distinct, "samples", "≤ 0"),
        figure(f"at another place than in the clean epoch, {at}", misplaced, "samples", "≤ 0"),
        figure(f"requests, {at}", epoch.requests / clean.requests, "× clean", max_requests),
        figure(f"wall time, {at}", epoch.wall_s / clean.wall_s, "× clean"),
    ]
