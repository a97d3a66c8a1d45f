"""Outages in an epoch, for `isnet bench faults`.

The store answers 503, refuses connections, has no name, or does not answer. Where `clock` is 10, outages, pauses and
timeouts are a tenth of what they are called.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

from jobs.bench.common import Figure, figure
from jobs.bench.failing_store import ADDRESS, GLOBAL_BATCH, WORLD, Epoch, Leave, Outage, number_and_digest, read_epoch
from trainplane.data.load.loader import Loader
from trainplane.data.manifest import Dataset
from trainplane.environ import with_variables
from trainplane.storage import RetryPolicy, open_store
from trainplane.store_wait import DEFAULT_WAIT_S, MIN_WAIT_S, VARIABLE
from trainplane.testing.fault_proxy import FaultProxy, no_fault

KINDS = ("503", "refused", "silent", "no name")
SECONDS = (10.0, 60.0, 300.0)
# The largest pause between two attempts, and the time of one.
_LATE_S = 25.0


def outage_figures(proxy: FaultProxy, packed: Sequence[bytes], clean: Epoch, *, seed: int, clock: int) -> list[Figure]:
    """Figures of outages of both ranks, and of one alone."""
    figures = []
    # Only where nothing is scaled the figure is one of real pauses.
    late = f"≤ {_LATE_S:.0f}" if clock == 1 else None
    with with_variables({VARIABLE: f"{max(MIN_WAIT_S, DEFAULT_WAIT_S / clock):g}"}):
        for kind, seconds in itertools.product(KINDS, SECONDS):
            outage = Outage(_leaver(kind, seconds / clock), clean.shard_requests // 2, scaled_policy(clock))
            with _names():
                epoch = read_epoch(proxy, packed, 0.0, seed=seed, outage=outage)
            bad = epoch.wrong + sum(a != b for a, b in zip(epoch.numbers, clean.numbers, strict=True))
            late_s = (epoch.wall_s - clean.wall_s) * clock - seconds
            figures.append(figure(f"wrong, missing or elsewhere, {kind} for {seconds:.0f} s", bad, "samples", "≤ 0"))
            figures.append(figure(f"late after {kind} for {seconds:.0f} s", late_s, "s", late))
        bad, waited_s = _one_rank(proxy, packed, clean, seed=seed, seconds=60.0, clock=clock)
    name = "one rank of two refused for 60 s"
    return [
        *figures,
        figure(f"wrong, missing or elsewhere, {name}", bad, "samples", "≤ 0"),
        figure(f"the longest step of the other, {name}", waited_s * clock, "s"),
    ]


def scaled_policy(clock: float) -> RetryPolicy:
    """The usual policy with all its times divided."""
    usual = RetryPolicy()
    times = {field.name: getattr(usual, field.name) / clock for field in fields(usual) if field.name.endswith("_s")}
    return replace(usual, **{**times, "least_bytes_per_s": usual.least_bytes_per_s})


def _leaver(kind: str, seconds: float) -> Leave:
    def leave(proxy: FaultProxy) -> None:
        if kind == "no name":
            _lost_until[0] = time.monotonic() + seconds
            # Connections that are open need no name.
            proxy.go_away("refused", seconds / 10)
        else:
            proxy.go_away(kind, seconds)

    return leave


# Time until which no name is found.
_lost_until = [0.0]


@contextmanager
def _names() -> Iterator[None]:
    """Lets the look-up of names fail on request."""
    look_up = socket.getaddrinfo

    def failing(*args: Any, **kwargs: Any) -> Any:
        if time.monotonic() < _lost_until[0]:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return look_up(*args, **kwargs)

    socket.getaddrinfo = failing
    try:
        yield
    finally:
        socket.getaddrinfo = look_up


def _one_rank(
    proxy: FaultProxy, packed: Sequence[bytes], clean: Epoch, *, seed: int, seconds: float, clock: float
) -> tuple[int, float]:
    """Bad samples, and the longest step of the other rank."""
    # Rank 1 reads through the proxy, rank 0 does not; they begin each step together, as ranks do that sum gradients.
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(WORLD), context.Queue()
    ranks = [
        context.Process(target=_read_share, args=(rank, endpoint, seed, clock, barrier, results))
        for rank, endpoint in enumerate((proxy.upstream, proxy.endpoint))
    ]
    after = itertools.count()

    def leave_once(method: str, path: str, number: int) -> str | None:
        if path.endswith(".tar") and next(after) == clean.shard_requests // (2 * WORLD):
            proxy.go_away("refused", seconds / clock)
        return None

    proxy.fault = leave_once
    for process in ranks:
        process.start()
    shares = dict(results.get(timeout=900) for _ in ranks)
    for process in ranks:
        process.join()
    proxy.fault = no_fault
    # A step's batch is the ranks' shares one after the other.
    steps = zip(*(shares[rank][0] for rank in range(WORLD)), strict=True)
    samples = [sample for step in steps for share in step for sample in share]
    bad = sum(
        number != expected or digest != packed[number]
        for (number, digest), expected in zip(samples, clean.numbers, strict=True)
    )
    return bad, shares[0][1]


def _read_share(rank: int, endpoint: str, seed: int, clock: float, barrier: Any, results: Any) -> None:
    """Reads an epoch in a process of its own."""
    os.environ["AWS_ENDPOINT_URL"] = endpoint
    dataset = Dataset.open(open_store(ADDRESS, policy=scaled_policy(clock)))
    longest_s, share = 0.0, []
    with Loader(
        dataset, transform=number_and_digest, seed=seed, global_batch=GLOBAL_BATCH, rank=rank, world=WORLD
    ) as loader:
        for _, batch in loader.batches(start=0, stop=loader.steps_per_epoch):
            digests = [digest.tobytes() for digest in batch["digest"].numpy()]
            share.append(list(zip(batch["n"].tolist(), digests, strict=True)))
            before = time.monotonic()
            barrier.wait()
            longest_s = max(longest_s, time.monotonic() - before)
    results.put((rank, (share, longest_s)))
