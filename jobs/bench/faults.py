"""`isnet bench faults`: an epoch from a failing S3 server.

A dataset of random bytes is packed into a local S3 server (moto). Two ranks' loaders then read the epoch through a
proxy that spoils a seeded share of all requests: errors 500 and 503, expired tokens, connections reset in mid body,
short bodies under the right length and under their own, silence, 10 kB/s, flipped bits, answers to other ranges. The
samples are compared with the packed ones. At the end the epoch is read twice with a cache on disk. Requests are counted
at the proxy, manifest and index among them. Not covered: decoding, and faults of the stored bytes themselves.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from jobs.bench.common import Figure, figure, only_store, report
from trainplane.cluster.stack.moto_server import local_s3
from trainplane.data.load.loader import Loader
from trainplane.data.manifest import Dataset
from trainplane.data.pack.pack import PackItem, pack
from trainplane.data.read.cache_dir import CacheConfig
from trainplane.data.types import Batch
from trainplane.storage import ensure_bucket
from trainplane.testing.fault_proxy import FaultProxy, no_fault, seeded_faults

ADDRESS = "s3://bench-faults/set"
RATES = (0.0, 0.01, 0.1, 0.3)
GLOBAL_BATCH = 16
_WORLD = 2
_READ_AHEAD_BYTES = 32 * 1024 * 1024
_MAX_REQUESTS = {0.1: 1.5}  # at this rate, times those of the clean epoch


@dataclass(frozen=True)
class Epoch:
    """Samples of one epoch in batch order, and its cost."""

    numbers: tuple[int, ...]
    wrong: int
    requests: int
    shard_requests: int
    faults: Mapping[str, int]
    wall_s: float


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
    clean = epochs[0.0]
    figures = [row for rate, epoch in epochs.items() for row in _figures(rate, epoch, clean, count)]
    wrong, shard_requests = sum(epoch.wrong for epoch in cached), cached[1].shard_requests
    figures += [
        figure("wrong bytes, two cached epochs, 10% faults", wrong, "samples", "≤ 0"),
        figure("requests for shards in the second of them, 10% faults", shard_requests, "requests", "≤ 0"),
        figure("wall time of the second of them, 10% faults", cached[1].wall_s / clean.wall_s, "× clean"),
    ]
    return report(
        args,
        figures,
        samples=count,
        clean={"requests": clean.requests, "wall_s": round(clean.wall_s, 2)},
        faults={f"{rate:.0%}": dict(sorted(epoch.faults.items())) for rate, epoch in epochs.items()},
    )


@contextmanager
def bench_store() -> Iterator[FaultProxy]:
    """Points the environment to a proxied local S3 server."""
    with (
        local_s3() as variables,
        FaultProxy(variables["AWS_ENDPOINT_URL"]) as proxy,
        only_store({**variables, "AWS_ENDPOINT_URL": proxy.endpoint}),
    ):
        ensure_bucket(ADDRESS)
        yield proxy


def pack_samples(count: int, sample_bytes: int, *, seed: int) -> list[bytes]:
    """Packs random samples at ADDRESS; returns their sha256."""
    rng = np.random.default_rng(seed)
    digests: list[bytes] = []

    # The digests are known before the store can spoil anything.
    def items() -> Iterator[PackItem]:
        for number in range(count):
            data = rng.bytes(int(rng.integers(sample_bytes // 2, sample_bytes * 3 // 2)))
            digests.append(hashlib.sha256(data).digest())
            yield PackItem(f"{number:07d}.jpg", data, "jpg", {"n": number})

    how = {"layout": "random", "seed": seed}
    pack(items(), ADDRESS, name="faults", split="train", shard_bytes=64 * sample_bytes, how=how)
    return digests


def number_and_digest(sample: Mapping[str, bytes], rng: np.random.Generator) -> Batch:
    """Transforms to number, int64 (), and sha256, uint8 (32,)."""
    digest = np.frombuffer(hashlib.sha256(sample["jpg"]).digest(), dtype=np.uint8)
    return {"n": torch.tensor(json.loads(sample["json"])["n"]), "digest": torch.from_numpy(digest.copy())}


def read_epoch(
    proxy: FaultProxy,
    packed: Sequence[bytes],
    rate: float,
    *,
    seed: int,
    cache: CacheConfig | None = None,
    number: int = 0,
) -> Epoch:
    """Reads an epoch while a share `rate` of requests fails."""
    requests: Counter[str] = Counter()
    # The proxy asks for each request; what it spoils is counted here.
    spoil = seeded_faults(rate, seed=seed)

    def fault(method: str, path: str, request: int) -> str | None:
        kind = spoil(method, path, request)
        requests.update({"all": 1, "shards": int(path.endswith(".tar")), f"fault {kind}": int(kind is not None)})
        return kind

    proxy.fault = fault
    # The ranks read one after the other: their order of batches does not depend on it.
    shares: list[list[Batch]] = []
    start = time.perf_counter()
    for rank in range(_WORLD):
        with Loader(
            Dataset.open(ADDRESS, cache=cache),
            transform=number_and_digest,
            seed=seed,
            global_batch=GLOBAL_BATCH,
            rank=rank,
            world=_WORLD,
            cache_bytes=_READ_AHEAD_BYTES,
        ) as loader:
            first = number * loader.steps_per_epoch
            # Cloned, so that a batch does not depend on the loader's memory.
            steps = loader.batches(start=first, stop=first + loader.steps_per_epoch)
            shares.append([{name: tensor.clone() for name, tensor in batch.items()} for _, batch in steps])
    wall_s = time.perf_counter() - start
    proxy.fault = no_fault
    # A step's batch is the ranks' shares one after the other.
    batches = [batch for step in zip(*shares, strict=True) for batch in step]
    numbers = torch.cat([batch["n"] for batch in batches]).tolist()
    # Compared by sha256: the bytes themselves are not kept.
    digests = torch.cat([batch["digest"] for batch in batches]).numpy()
    wrong = sum(digest.tobytes() != packed[n] for n, digest in zip(numbers, digests, strict=True))
    spoilt = {name.removeprefix("fault "): n for name, n in requests.items() if name.startswith("fault ") and n}
    return Epoch(tuple(numbers), wrong, requests["all"], requests["shards"], spoilt, wall_s)


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
