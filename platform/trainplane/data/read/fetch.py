"""Bytes of samples, read in ranges and checked before anyone sees them.

A walk over steps reads ahead: the runs of neighbours that later steps need (order.py) are requested, several at once,
while earlier steps are used, as far ahead as memory reaches. What has come is checked and cut into samples by the
thread that read it, and a sample is let go of when it is taken, so half of the windows is held on average. Runs that
do not fit into `cache_bytes` are read sample by sample instead: memory is bounded and no byte is read twice. A dataset
that fits as a whole stays. Every member's length, header and crc32 are checked. Bytes may be spoilt on the way, too:
only what two readings give alike is called damage. What is sound is kept on the host's disk where there is a cache
(cache.py), and read from there the next time. Not covered: trying again after a failed request (storage) and what
happens to damaged samples (loader.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import TypeAlias

from trainplane.data.damage import BLOCK_BYTES, MISSING_SHARD, Damage, DamageError, judge_member
from trainplane.data.manifest import Dataset, Members
from trainplane.data.order import Visit
from trainplane.data.read.shard_reader import Run, Source
from trainplane.errors import UserError
from trainplane.storage import NotFound

DEFAULT_CACHE_BYTES = 256 * 1024 * 1024

_CONNECTIONS = 8
_STEPS_AHEAD = 4  # at least
_MOST_STEPS_AHEAD = 64
_READINGS = 8  # of a sample whose bytes differ from reading to reading
_RUN_BYTES = 4 * 1024 * 1024  # of samples read in bulk, per request

Step: TypeAlias = tuple[int, Sequence[Visit]]
"""A step's number, and what is visited there."""

Found: TypeAlias = Members | Damage


@dataclass
class _Awaited:
    """Samples of one run, on their way or here: `left` of them wait to be taken, and take `bytes` of memory."""

    samples: Future[dict[int, Found]]
    left: int
    bytes: int

    def let_go(self) -> int:
        """One sample was taken: the bytes that are free again."""
        freed = self.bytes // self.left
        self.left -= 1
        self.bytes -= freed
        return freed


class Fetcher:
    """Reads one dataset. Use it from one thread, and close it: its reading threads end then.

    `cache_bytes` is memory for what is read ahead; the host's disk is used where the dataset names a cache.
    """

    def __init__(self, dataset: Dataset, *, cache_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        self._dataset = dataset
        self._cache_bytes = cache_bytes
        self._keeps_all = dataset.bytes <= cache_bytes
        self._source = Source(dataset)
        self._awaited: dict[tuple[int, int], _Awaited] = {}
        self._alone: dict[tuple[int, int, int], int] = {}
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
        self._awaited.clear()

    def walk(self, steps: Iterable[Step], *, met: Collection[int] = ()) -> Iterator[list[tuple[Visit, Found]]]:
        """For each step, its visits with their samples; in the place of a damaged one, the damage.

        `met` are samples that the windows of the first step visited before it: they are not kept.
        """
        source = iter(steps)
        ahead: deque[Step] = deque()
        begun: int | None = None
        while True:
            while self._reaches_on(len(ahead)) and (step := next(source, None)) is not None:
                begun = step[0] if begun is None else begun
                self._request(step, met, begun)
                ahead.append(step)
            if not ahead:
                return
            yield [(visit, self._take(visit)) for visit in ahead.popleft()[1]]

    def read(self, sample: int, *, seen: bytes | memoryview | None = None) -> Found:
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

    def _reaches_on(self, steps_ahead: int) -> bool:
        """Whether another step's bytes shall be requested now."""
        if steps_ahead < _STEPS_AHEAD:
            return True
        return steps_ahead < _MOST_STEPS_AHEAD and self._held_bytes < self._cache_bytes * 3 // 4

    def _request(self, step: Step, met: Collection[int], begun: int) -> None:
        """Begin to read whatever the step needs and is not here."""
        for visit in step[1]:
            if self._key(visit.sample, visit) in self._awaited:
                continue
            run = (visit.first, visit.end, visit.until)
            first, end = visit.first, visit.end
            size = self._size(first, end)
            if run in self._alone or (self._held_bytes + size > self._cache_bytes and not self._keeps_all):
                # Once some of a run was read by itself, all of it is: nothing is read twice.
                self._alone[run] = self._alone.get(run, visit.end - visit.first) - 1
                if not self._alone[run]:
                    del self._alone[run]
                first, end = visit.sample, visit.sample + 1
                size = self._size(first, end)
            passed = met if visit.since < begun else ()
            keys = [
                (sample, key)
                for sample in range(first, end)
                if sample not in passed and (key := self._key(sample, visit)) not in self._awaited
            ]
            wanted = [sample for sample, _ in keys]
            awaited = _Awaited(self._threads.submit(self._read, first, end, wanted), len(wanted), size)
            self._awaited.update((key, awaited) for _, key in keys)
            self._held_bytes += size

    def _key(self, sample: int, visit: Visit) -> tuple[int, int]:
        # The next epoch may ask for a sample before this one is done with it.
        return sample, -1 if self._keeps_all else visit.until

    def _size(self, first: int, end: int) -> int:
        start, stop = self._dataset.index.span(first, end)
        return stop - start

    def _take(self, visit: Visit) -> Found:
        key = self._key(visit.sample, visit)
        awaited = self._awaited[key]
        samples = awaited.samples.result()
        if self._keeps_all:
            return samples[visit.sample]
        del self._awaited[key]
        self._held_bytes -= awaited.let_go()
        return samples.pop(visit.sample)

    def _read(self, first: int, end: int, wanted: Sequence[int]) -> dict[int, Found]:
        """The wanted ones of samples first … end - 1, read together."""
        try:
            run = self._source.read(first, end)
        except NotFound:
            return {sample: self.read(sample) for sample in wanted}
        return {sample: self._sample_of(run, sample) for sample in wanted}

    def _sample_of(self, run: Run, sample: int) -> Found:
        members, kind = self._check(sample, run.data, run.start)
        if kind is None:
            self._source.keep(sample, run)
            return members
        if sample not in run.fetched:
            return self.read(sample)
        start, stop = self._dataset.index.span(sample, sample + 1)
        return self.read(sample, seen=run.data[start - run.start : stop - run.start])

    def _check(self, sample: int, data: bytes | memoryview, start: int) -> tuple[Members, str | None]:
        """The sample's members within `data`, which begins at byte `start` of the shard; and what is wrong, if so."""
        members: Members = {}
        key = ""
        for member in self._dataset.index.members_of(sample):
            at = member.offset - start
            header, payload = bytes(data[at - BLOCK_BYTES : at]), bytes(data[at : at + member.size])
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
                    raise DamageError(
                        dataset.address, [sample], dataset.remedy("verify it, then repair it or pack again")
                    )
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
