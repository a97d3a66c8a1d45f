"""Reads samples ahead of use and checks every byte.

The neighbours that later steps need (order.py) are requested as one range, several ranges at once, as far ahead as
memory allows. The thread that read a range also checks and splits it. A sample is released when it is used, so on
average half of the windows is in memory. Ranges that do not fit into `cache_bytes` are read sample by sample: memory
stays bounded and no byte is read twice. A dataset that fits into memory as a whole stays there.

The length, header and crc32 of every member are checked. Bytes may also be corrupted on the way, so only what two
readings agree on is called damage. Valid bytes are also cached on the host's disk where a cache is set (cache.py).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

from trainplane.data.damage import BLOCK_BYTES, MISSING_SHARD, Damage, DamageError, check_member
from trainplane.data.manifest import Dataset, Members
from trainplane.data.order import Visit
from trainplane.data.read.shard_reader import Chunk, ShardReader
from trainplane.errors import UserError
from trainplane.storage import NotFound
from trainplane.store_wait import STORE_WAITS

DEFAULT_CACHE_BYTES = 256 * 1024 * 1024

_CONNECTIONS = 8
_MIN_STEPS_AHEAD = 4
_MAX_STEPS_AHEAD = 64
_READINGS = 8  # of a sample whose bytes differ from reading to reading
_RANGE_BYTES = 4 * 1024 * 1024  # of samples read in bulk, per request

Step: TypeAlias = tuple[int, Sequence[Visit]]
"""Number of a step, and its visits."""

SampleOrDamage: TypeAlias = Members | Damage


@dataclass
class _Pending:
    """Samples of one range, requested and not used yet."""

    samples: Future[dict[int, SampleOrDamage]]
    remaining: int  # samples not used yet
    bytes: int  # memory that those take

    def release_sample(self) -> int:
        """Releases one sample; returns the bytes freed."""
        freed = self.bytes // self.remaining
        self.remaining -= 1
        self.bytes -= freed
        return freed


class Fetcher:
    """Reads the samples of one dataset ahead of use.

    Use it from one thread, and close it: this ends its reading threads. `cache_bytes` limits the memory for samples
    ahead.
    """

    def __init__(self, dataset: Dataset, *, cache_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        self._dataset = dataset
        self._cache_bytes = cache_bytes
        self._keeps_all = dataset.bytes <= cache_bytes
        self._shards = ShardReader(dataset)
        # By sample and last step of its window; the step is -1 where the whole dataset stays in memory.
        self.pending: dict[tuple[int, int], _Pending] = {}
        self.held_bytes = 0
        # Ranges that are read sample by sample, and how many of their samples are still to be requested.
        self._split: dict[tuple[int, int, int], int] = {}
        # Reads that wait for a store that is away must not outlive their reader.
        self._closing, outer = threading.Event(), STORE_WAITS.cancelled
        self._threads = ThreadPoolExecutor(
            _CONNECTIONS, "fetch", STORE_WAITS.obey, (lambda: self._closing.is_set() or outer(),)
        )

    def __enter__(self) -> Fetcher:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the reads under way and frees the memory."""
        self._closing.set()
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._shards.close()
        self.pending.clear()

    def walk(
        self, steps: Iterable[Step], *, visited: Collection[int] = ()
    ) -> Iterator[list[tuple[Visit, SampleOrDamage]]]:
        """Yields for each step its visits with samples or damage.

        Samples in `visited`, which the first step's windows visited before it, are not kept.
        """
        source = iter(steps)
        ahead: deque[Step] = deque()
        first_step: int | None = None
        while True:
            # Request as many steps as memory allows, then hand out the oldest.
            while self._may_request(len(ahead)) and (step := next(source, None)) is not None:
                first_step = step[0] if first_step is None else first_step
                self._request(step, visited, first_step)
                ahead.append(step)
            if not ahead:
                return
            yield [(visit, self._take(visit)) for visit in ahead.popleft()[1]]

    def read(self, sample: int, *, rejected: bytes | memoryview | None = None) -> SampleOrDamage:
        """Reads one sample from the store now.

        `rejected` are bytes of an earlier reading that failed the check: the same bytes again are damage.
        """
        kind = MISSING_SHARD
        for _ in range(_READINGS):
            try:
                chunk = self._shards.read_from_store(sample)
            except NotFound:
                break
            members, problem = self._check(sample, chunk.data, chunk.start)
            if problem is None:
                self._shards.cache_sample(sample, chunk)
                return members
            kind = problem
            # The same wrong bytes twice: they are stored like that.
            if chunk.data == rejected:
                break
            rejected = chunk.data
        return self._damage(sample, kind)

    def _may_request(self, steps_ahead: int) -> bool:
        if steps_ahead < _MIN_STEPS_AHEAD:
            return True
        return steps_ahead < _MAX_STEPS_AHEAD and self.held_bytes < self._cache_bytes * 3 // 4

    def _request(self, step: Step, visited: Collection[int], first_step: int) -> None:
        for visit in step[1]:
            if self._key(visit.sample, visit) in self.pending:
                continue
            window = (visit.first, visit.end, visit.until)
            first, end = visit.first, visit.end
            size = self._size(first, end)
            # Too little memory for the whole range: read this sample alone. Once some of a range was read by itself,
            # all of it is, so that nothing is read twice.
            if window in self._split or (self.held_bytes + size > self._cache_bytes and not self._keeps_all):
                self._split[window] = self._split.get(window, visit.end - visit.first) - 1
                if not self._split[window]:
                    del self._split[window]
                first, end = visit.sample, visit.sample + 1
                size = self._size(first, end)
            # Windows that began before the walk were visited in part; those samples will not be asked for.
            passed = visited if visit.since < first_step else ()
            keys = [
                (sample, key)
                for sample in range(first, end)
                if sample not in passed and (key := self._key(sample, visit)) not in self.pending
            ]
            samples = [sample for sample, _ in keys]
            pending = _Pending(self._threads.submit(self._read_range, first, end, samples), len(samples), size)
            self.pending.update((key, pending) for _, key in keys)
            self.held_bytes += size

    def _key(self, sample: int, visit: Visit) -> tuple[int, int]:
        # The window is part of the key: the next epoch may ask for a sample before this epoch has used it.
        return sample, -1 if self._keeps_all else visit.until

    def _size(self, first: int, end: int) -> int:
        start, stop = self._dataset.index.span(first, end)
        return stop - start

    def _take(self, visit: Visit) -> SampleOrDamage:
        key = self._key(visit.sample, visit)
        pending = self.pending[key]
        samples = pending.samples.result()
        if self._keeps_all:
            return samples[visit.sample]
        del self.pending[key]
        self.held_bytes -= pending.release_sample()
        return samples.pop(visit.sample)

    def _read_range(self, first: int, end: int, samples: Sequence[int]) -> dict[int, SampleOrDamage]:
        """Reads a range at once; returns `samples` of it."""
        try:
            chunk = self._shards.read(first, end)
        except NotFound:
            return {sample: self.read(sample) for sample in samples}
        return {sample: self._sample_in(chunk, sample) for sample in samples}

    def _sample_in(self, chunk: Chunk, sample: int) -> SampleOrDamage:
        """Returns a sample of a chunk, read again if invalid."""
        members, problem = self._check(sample, chunk.data, chunk.start)
        if problem is None:
            self._shards.cache_sample(sample, chunk)
            return members
        # Wrong bytes of the cache prove nothing about the store.
        if sample not in chunk.fetched:
            return self.read(sample)
        start, stop = self._dataset.index.span(sample, sample + 1)
        return self.read(sample, rejected=chunk.data[start - chunk.start : stop - chunk.start])

    def _check(self, sample: int, data: bytes | memoryview, start: int) -> tuple[Members, str | None]:
        # Returns a sample's members, or the kind of its damage. Byte `start` of the shard is the first of `data`.
        members: Members = {}
        key = ""
        for member in self._dataset.index.members_of(sample):
            at = member.offset - start
            header, payload = bytes(data[at - BLOCK_BYTES : at]), bytes(data[at : at + member.size])
            name = f"{key}.{member.extension}"
            kind = check_member(header, payload, name=name, size=member.size, crc32=member.crc32)
            if kind is not None:
                return {}, kind
            # Take the key from the checked header, so that no table of all keys is needed in memory.
            key = key or header[:100].rstrip(b"\0").decode().removesuffix(name)
            members[member.extension] = payload
        members["__key__"] = key.encode()
        return members, None

    def _damage(self, sample: int, kind: str) -> Damage:
        index = self._dataset.index
        return Damage(self._dataset.shards[index.shard_of(sample)].name, index.key_of(sample), kind)


def read_samples(dataset: Dataset, indices: Sequence[int]) -> list[Members]:
    """Reads samples in the given order, neighbours together.

    Raises `UserError` for a number that the dataset lacks, `DamageError` for damage.
    """
    numbers = sorted(set(indices))
    if numbers and not (numbers[0] >= 0 and numbers[-1] < dataset.num_samples):
        raise UserError(
            f"samples {numbers[0]} to {numbers[-1]} were requested; "
            f"{dataset.address} has 0 to {dataset.num_samples - 1}"
        )
    # One step per range, so that the memory of a range is released before the next.
    ranges = enumerate(_ranges(dataset, numbers))
    steps = ((step, [Visit(sample, first, end) for sample in range(first, end)]) for step, (first, end) in ranges)
    samples: dict[int, Members] = {}
    with Fetcher(dataset) as fetcher:
        for visits in fetcher.walk(steps):
            for visit, sample in visits:
                if isinstance(sample, Damage):
                    raise DamageError(
                        dataset.address, [sample], dataset.remedy("verify it, then repair it or pack again")
                    )
                samples[visit.sample] = sample
    return [samples[index] for index in indices]


def _ranges(dataset: Dataset, numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    # Yields (first, end) of consecutive samples of one shard. A range has a few MiB at most, unless it is a single
    # sample.
    at = 0
    while at < len(numbers):
        first = end = numbers[at]
        end_of_shard = dataset.index.samples_of(dataset.index.shard_of(first)).stop
        while at < len(numbers) and numbers[at] == end < end_of_shard:
            start, stop = dataset.index.span(first, end + 1)
            if end > first and stop - start > _RANGE_BYTES:
                break
            end += 1
            at += 1
        yield first, end
