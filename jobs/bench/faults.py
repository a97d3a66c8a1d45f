"""`isnet bench faults`: one epoch from an S3 server that fails, at rising rates, with what that costs.

A dataset of random bytes is packed into a local S3 server (moto). Two ranks' loaders then read the epoch through a
proxy that spoils a seeded share of all requests: errors 500 and 503, expired tokens, connections reset in mid body,
short bodies under the right length and under their own, silence, 10 kB/s, flipped bits, answers to other ranges. What
they hand out is compared with what was packed. At the end the epoch is read twice with a cache on disk. Requests are
counted at the proxy, manifest and index among them. Not covered: decoding, and faults of what the server has stored.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from jobs.bench.common import machine
from jobs.cli.main import emit
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
_MOST_REQUESTS = {0.1: 1.5}  # at this rate, times those of the clean epoch


@dataclass(frozen=True)
class Epoch:
    """The numbers of the samples in the order of the batches, how many had other bytes than were packed; the cost."""

    numbers: tuple[int, ...]
    wrong: int
    requests: int
    shard_requests: int
    faults: Mapping[str, int]
    wall_s: float


def faults(args: argparse.Namespace) -> int:
    """`isnet bench faults`."""
    count = -(-args.samples // GLOBAL_BATCH) * GLOBAL_BATCH
    with bench_store() as proxy, tempfile.TemporaryDirectory(prefix="isnet-bench-") as folder:
        packed = pack_samples(count, args.sample_bytes, seed=args.seed)
        epochs = {rate: read_epoch(proxy, packed, rate, seed=args.seed) for rate in RATES}
        place = CacheConfig(folder, 1 << 40)
        cached = [read_epoch(proxy, packed, 0.1, seed=args.seed, cache=place, number=number) for number in (0, 1)]
    figures = [figure for rate, epoch in epochs.items() for figure in _figures(rate, epoch, epochs[0.0], count)]
    figures += [
        _figure("wrong bytes, two cached epochs, 10% faults", sum(one.wrong for one in cached), "samples", most=0),
        _figure("requests for shards in the second of them, 10% faults", cached[1].shard_requests, "requests", most=0),
        _figure(
            "wall time of the second of them, 10% faults", round(cached[1].wall_s / epochs[0.0].wall_s, 2), "× clean"
        ),
    ]
    spoilt = {f"{rate:.0%}": dict(sorted(epoch.faults.items())) for rate, epoch in epochs.items()}
    report = {
        "machine": machine(),
        "samples": count,
        "clean": {"requests": epochs[0.0].requests, "wall_s": round(epochs[0.0].wall_s, 2)},
        "faults": spoilt,
        "figures": figures,
    }
    emit(args, report, "\n".join(map(_line, figures)))
    return 1 if any(figure["met"] is False for figure in figures) else 0


@contextmanager
def bench_store() -> Iterator[FaultProxy]:
    """A local S3 server with a proxy before it, to which the environment points within the block. Holds a bucket."""
    with local_s3() as environment, FaultProxy(environment["AWS_ENDPOINT_URL"]) as proxy:
        before = dict(os.environ)
        # What the user's environment says about Amazon must not be mixed in.
        for name in [name for name in before if name.startswith("AWS_")]:
            del os.environ[name]
        os.environ.update(environment, AWS_ENDPOINT_URL=proxy.endpoint)
        try:
            ensure_bucket(ADDRESS)
            yield proxy
        finally:
            os.environ.clear()
            os.environ.update(before)


def pack_samples(count: int, sample_bytes: int, *, seed: int) -> list[bytes]:
    """A dataset of `count` samples of random bytes, `sample_bytes` on average, at ADDRESS. Their sha256, by number."""
    chance = np.random.default_rng(seed)
    digests: list[bytes] = []

    def items() -> Iterator[PackItem]:
        for number in range(count):
            data = chance.bytes(int(chance.integers(sample_bytes // 2, sample_bytes * 3 // 2)))
            digests.append(hashlib.sha256(data).digest())
            yield PackItem(f"{number:07d}.jpg", data, "jpg", {"n": number})

    how = {"layout": "random", "seed": seed}
    pack(items(), ADDRESS, name="faults", split="train", shard_bytes=64 * sample_bytes, how=how)
    return digests


def number_and_digest(sample: Mapping[str, bytes], rng: np.random.Generator) -> Batch:
    """The transform: which sample it is, int64 (), and the sha256 of its picture, uint8 (32,)."""
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
    """Read epoch `number` as each of the ranks would, while a share `rate` of the requests is spoilt."""
    seen: Counter[str] = Counter()
    spoil = seeded_faults(rate, seed=seed)

    def fault(method: str, path: str, request: int) -> str | None:
        kind = spoil(method, path, request)
        seen.update({"all": 1, "shards": int(path.endswith(".tar")), f"fault {kind}": int(kind is not None)})
        return kind

    proxy.fault = fault
    shares: list[list[Batch]] = []
    begun = time.perf_counter()
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
            steps = loader.batches(start=first, stop=first + loader.steps_per_epoch)
            shares.append([{name: tensor.clone() for name, tensor in batch.items()} for _, batch in steps])
    wall_s = time.perf_counter() - begun
    proxy.fault = no_fault
    # A step's batch is the ranks' shares one after the other.
    batches = [batch for step in zip(*shares, strict=True) for batch in step]
    numbers = torch.cat([batch["n"] for batch in batches]).tolist()
    digests = torch.cat([batch["digest"] for batch in batches]).numpy()
    wrong = sum(digest.tobytes() != packed[n] for n, digest in zip(numbers, digests, strict=True))
    spoilt = {name.removeprefix("fault "): times for name, times in seen.items() if name.startswith("fault ") and times}
    return Epoch(tuple(numbers), wrong, seen["all"], seen["shards"], spoilt, wall_s)


def _figures(rate: float, epoch: Epoch, clean: Epoch, count: int) -> list[dict[str, Any]]:
    at = f"{rate:.0%} faults"
    requests = round(epoch.requests / clean.requests, 3)
    return [
        _figure(f"wrong bytes, {at}", epoch.wrong, "samples", most=0),
        _figure(f"missing, {at}", count - len(set(epoch.numbers)), "samples", most=0),
        _figure(f"doubled, {at}", len(epoch.numbers) - len(set(epoch.numbers)), "samples", most=0),
        _figure(
            f"at another place than in the clean epoch, {at}",
            sum(one != other for one, other in zip(epoch.numbers, clean.numbers, strict=True)),
            "samples",
            most=0,
        ),
        _figure(f"requests, {at}", requests, "× clean", most=_MOST_REQUESTS.get(rate)),
        _figure(f"wall time, {at}", round(epoch.wall_s / clean.wall_s, 2), "× clean"),
    ]


def _figure(name: str, value: float, unit: str, *, most: float | None = None) -> dict[str, Any]:
    met = None if most is None else value <= most
    return {"name": name, "value": value, "unit": unit, "target": None if most is None else f"≤ {most}", "met": met}


def _line(figure: Mapping[str, Any]) -> str:
    verdict = "" if figure["met"] is None else f"   {figure['target']}: {'yes' if figure['met'] else 'NO'}"
    return f"{figure['name']:<52} {figure['value']:>8} {figure['unit']}{verdict}"
