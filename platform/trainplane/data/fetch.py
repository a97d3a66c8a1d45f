"""Bytes of samples, read in ranges and checked before anyone sees them.

A walk over steps reads ahead: the runs of neighbours that a step needs (order.py) are requested, several at once,
while earlier steps are used. A run is kept until its window has passed; runs that do not fit into `cache_bytes` are
read sample by sample instead, so memory is bounded and no byte is read twice. A dataset that fits as a whole stays.
Every member's length, header and crc32 are checked. Bytes may be spoilt on the way, too: only what two readings give
alike is called damage. What is sound is kept on the host's disk where there is a cache (cache.py), and read from there
the next time. Not covered: trying again after a failed request (storage) and what happens to damaged samples
(loader.py).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import TypeAlias

from trainplane.data.damage import BLOCK_BYTES, MISSING_SHARD, Damage, DamageError, judge_member
from trainplane.data.manifest import Dataset, Members
from trainplane.data.order import Visit
from trainplane.data.source import Run, Source
from trainplane.errors import UserError
from trainplane.storage import NotFound

DEFAULT_CACHE_BYTES = 256 * 1024 * 1024

_CONNECTIONS = 8
_STEPS_AHEAD = 4
_READINGS = 8  # of a sample whose bytes differ from reading to reading
_RUN_BYTES = 4 * 1024 * 1024  # of samples read in bulk, per request

Step: TypeAlias = tuple[int, Sequence[Visit]]
"""What one step visits, and the number of its window: runs of windows before it are not needed again."""


@dataclass
class _Awaited:
    """Bytes of neighbouring samples, on their way or here. `window` is the last in which they are needed."""

    run: Future[Run]
    size: int
    window: int


class Fetcher:
    """Reads one dataset. Use it from one thread, and close it: its reading threads end then.

    `cache_bytes` is memory for what is read ahead; the host's disk is used where the dataset names a cache.
    """

    def __init__(self, dataset: Dataset, *, cache_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        self._dataset = dataset
        self._cache_bytes = cache_bytes
        self._keeps_all = dataset.bytes <= cache_bytes
        self._source = Source(dataset)
        self._runs: OrderedDict[tuple[int, int], _Awaited] = OrderedDict()
        self._held_bytes = 0
        self._threads = ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="fetch")

    def __enter__(self) -> Fetcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Wait for the reads under way and let go of everything."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._source.close()
        self._runs.clear()

    def walk(self, steps: Iterable[Step]) -> Iterator[list[tuple[Visit, Members | Damage]]]:
        """For each step, its visits with their samples; in the place of a damaged one, the damage."""
        ahead: deque[Step] = deque()
        for step in steps:
            ahead.append(step)
            self._request(step, present=ahead[0][0])
            if len(ahead) > _STEPS_AHEAD:
                yield self._take(ahead.popleft())
        while ahead:
            yield self._take(ahead.popleft())

    def read(self, sample: int, *, seen: bytes | None = None) -> Members | Damage:
        """One sample by itself, read from the store now. `seen` is what it gave before that was not sound."""
        kind = MISSING_SHARD
        for _ in range(_READINGS):
            try:
                run = self._source.read_stored(sample)
            except NotFound:
                break
            members, found = self._check(sample, run.data, run.start)
            if found is None:
                self._source.keep(sample, run)
                return members
            kind = found
            if run.data == seen:
                break
            seen = run.data
        return self._damage(sample, kind)

    def _request(self, step: Step, *, present: int) -> None:
        """Begin to read whatever the step needs and is not here."""
        window, visits = step
        for visit in visits:
            if (awaited := self._runs.get((visit.first, visit.end))) is not None:
                awaited.window = window
                self._runs.move_to_end((visit.first, visit.end))
                continue
            start, stop = self._dataset.index.span(visit.first, visit.end)
            self._make_room(stop - start, present)
            key, first, end = (visit.first, visit.end), visit.first, visit.end
            if self._held_bytes + stop - start > self._cache_bytes:
                key, first, end = _alone(visit, window), visit.sample, visit.sample + 1
                start, stop = self._dataset.index.span(first, end)
            run = self._threads.submit(self._source.read, first, end)
            self._runs[key] = _Awaited(run, stop - start, window)
            self._held_bytes += stop - start

    def _make_room(self, size: int, present: int) -> None:
        """Let go of runs of past windows, oldest first: all of them, or as many as it takes where all may be kept."""
        for key in [key for key, awaited in self._runs.items() if awaited.window < present]:
            if self._keeps_all and self._held_bytes + size <= self._cache_bytes:
                return
            self._drop(key)

    def _drop(self, key: tuple[int, int]) -> None:
        self._held_bytes -= self._runs.pop(key).size

    def _take(self, step: Step) -> list[tuple[Visit, Members | Damage]]:
        window, visits = step
        return [(visit, self._sample_of(visit, window)) for visit in visits]

    def _sample_of(self, visit: Visit, window: int) -> Members | Damage:
        whole = (visit.first, visit.end)
        key = whole if whole in self._runs else _alone(visit, window)
        awaited = self._runs[key]
        if key != whole:
            self._drop(key)
        try:
            run = awaited.run.result()
        except NotFound:
            return self.read(visit.sample)
        members, kind = self._check(visit.sample, run.data, run.start)
        if kind is None:
            self._source.keep(visit.sample, run)
            return members
        if visit.sample not in run.fetched:
            return self.read(visit.sample)
        start, stop = self._dataset.index.span(visit.sample, visit.sample + 1)
        return self.read(visit.sample, seen=run.data[start - run.start : stop - run.start])

    def _check(self, sample: int, data: bytes, start: int) -> tuple[Members, str | None]:
        """The sample's members within `data`, which begins at byte `start` of the shard; and what is wrong, if so."""
        members: Members = {}
        key = ""
        for member in self._dataset.index.members_of(sample):
            at = member.offset - start
            header, payload = data[at - BLOCK_BYTES : at], data[at : at + member.size]
            name = f"{key}.{member.extension}"
            kind = judge_member(header, payload, name=name, size=member.size, crc32=member.crc32)
            if kind is not None:
                return {}, kind
            # The header that was just checked tells the key, so that no table of keys need be held.
            key = key or header[:100].rstrip(b"\0").decode().removesuffix(name)
            members[member.extension] = payload
        members["__key__"] = key.encode()
        return members, None

    def _damage(self, sample: int, kind: str) -> Damage:
        index = self._dataset.index
        return Damage(self._dataset.shards[index.shard_of(sample)].name, index.key_of(sample), kind)


def _alone(visit: Visit, window: int) -> tuple[int, int]:
    """The key of what is read for one visit by itself: the next epoch's visit, which may be near, has its own."""
    return visit.sample, -1 - window


def read_samples(dataset: Dataset, indices: Sequence[int]) -> list[Members]:
    """The samples with these numbers, in that order; neighbours are read together. Raises `DamageError`."""
    wanted = sorted(set(indices))
    if wanted and not (wanted[0] >= 0 and wanted[-1] < dataset.num_samples):
        raise UserError(
            f"samples {wanted[0]} to {wanted[-1]} were asked for, {dataset.address} has 0 to {dataset.num_samples - 1}"
        )
    runs = enumerate(_runs_of(dataset, wanted))
    steps = ((number, [Visit(sample, first, end) for sample in range(first, end)]) for number, (first, end) in runs)
    found: dict[int, Members] = {}
    with Fetcher(dataset) as fetcher:
        for visited in fetcher.walk(steps):
            for visit, sample in visited:
                if isinstance(sample, Damage):
                    raise DamageError(dataset.address, [sample], "verify it, then repair it or pack again")
                found[visit.sample] = sample
    return [found[index] for index in indices]


def _runs_of(dataset: Dataset, wanted: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Runs (first, end) of consecutive samples of one shard, each of a few MiB at most."""
    at = 0
    while at < len(wanted):
        first = end = wanted[at]
        end_of_shard = dataset.index.samples_of(dataset.index.shard_of(first)).stop
        while at < len(wanted) and wanted[at] == end < end_of_shard:
            start, stop = dataset.index.span(first, end + 1)
            if end > first and stop - start > _RUN_BYTES:
                break
            end += 1
            at += 1
        yield first, end
