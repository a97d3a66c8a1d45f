"""Epochs from a local S3 server behind a failing proxy.

A dataset of random bytes is packed into moto; two ranks' loaders then read an epoch of it, and what they get is
compared with the packed samples. Requests are counted at the proxy, manifest and index among them.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from jobs.bench.common import only_store
from trainplane.cluster.stack.moto_server import local_s3
from trainplane.data.load.loader import Loader
from trainplane.data.manifest import Dataset
from trainplane.data.pack.pack import PackItem, pack
from trainplane.data.read.cache_dir import CacheConfig
from trainplane.data.types import Batch
from trainplane.storage import RetryPolicy, ensure_bucket, open_store
from trainplane.testing.fault_proxy import FaultProxy, no_fault, seeded_faults

ADDRESS = "s3://bench-faults/set"
GLOBAL_BATCH = 16
WORLD = 2
_READ_AHEAD_BYTES = 32 * 1024 * 1024

Leave = Callable[[FaultProxy], None]
"""Makes the store go away."""


@dataclass(frozen=True)
class Outage:
    """An outage in the middle of an epoch."""

    leave: Leave
    after: int  # requests for shards before it
    policy: RetryPolicy


@dataclass(frozen=True)
class Epoch:
    """Samples of one epoch in batch order, and its cost."""

    numbers: tuple[int, ...]
    wrong: int
    requests: int
    shard_requests: int
    faults: Mapping[str, int]
    wall_s: float


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
    outage: Outage | None = None,
) -> Epoch:
    """Reads an epoch with failing requests or an outage."""
    requests: Counter[str] = Counter()
    # The proxy asks for each request; what it spoils is counted here.
    spoil = seeded_faults(rate, seed=seed)

    def fault(method: str, path: str, request: int) -> str | None:
        kind = spoil(method, path, request)
        if outage and path.endswith(".tar") and requests["shards"] == outage.after:
            outage.leave(proxy)
        requests.update({"all": 1, "shards": int(path.endswith(".tar")), f"fault {kind}": int(kind is not None)})
        return kind

    proxy.fault = fault
    # The ranks read one after the other: their order of batches does not depend on it.
    shares: list[list[Batch]] = []
    store = open_store(ADDRESS, policy=outage.policy) if outage else ADDRESS
    start = time.perf_counter()
    for rank in range(WORLD):
        with Loader(
            Dataset.open(store, cache=cache),
            transform=number_and_digest,
            seed=seed,
            global_batch=GLOBAL_BATCH,
            rank=rank,
            world=WORLD,
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
