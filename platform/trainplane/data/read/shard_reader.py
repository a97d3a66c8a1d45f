"""Where the bytes of samples come from: this host's cache where it has them, else the store.

Not covered: whether they are sound (fetch.py says so, and only then `keep` is called), and when they are needed.
"""

from __future__ import annotations

from dataclasses import dataclass

from trainplane.data.manifest import Dataset
from trainplane.data.read.cache import ShardCache
from trainplane.data.shard import Shard


@dataclass(frozen=True)
class Run:
    """Bytes of neighbouring samples; `start` is where in the shard they begin, `fetched` which the store gave."""

    data: bytes | memoryview
    start: int
    fetched: range


class Source:
    """Bytes of one dataset's samples. `reads` and `keep` may be called from several threads; close it."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._cache = ShardCache(dataset.cache, dataset.digest) if dataset.cache else None

    def close(self) -> None:
        if self._cache is not None:
            self._cache.close()

    def read(self, first: int, end: int) -> Run:
        """Samples first … end - 1, neighbours in one shard; raises `NotFound` for a shard that is not there."""
        shard = self._shard(first)
        start, stop = self._dataset.index.span(first, end)
        kept = self._cache.read(shard, start, stop - start) if self._cache else None
        if kept is None:
            return Run(self._from_store(shard, start, stop), start, range(first, end))
        holes = [sample for sample in range(first, end) if self._is_hole(kept, start, sample)]
        if not holes:
            return Run(kept, start, range(first, first))
        # One request, although it may bring a sample again that is here.
        low, high = self._dataset.index.span(holes[0], holes[-1] + 1)
        data = b"".join((kept[: low - start], self._from_store(shard, low, high), kept[high - start :]))
        return Run(data, start, range(holes[0], holes[-1] + 1))

    def read_stored(self, sample: int) -> Run:
        """One sample from the store, whatever the cache has."""
        start, stop = self._dataset.index.span(sample, sample + 1)
        return Run(self._from_store(self._shard(sample), start, stop), start, range(sample, sample + 1))

    def keep(self, sample: int, run: Run) -> None:
        """A sound sample, for the cache."""
        if self._cache is not None and sample in run.fetched:
            start, stop = self._dataset.index.span(sample, sample + 1)
            self._cache.keep(self._shard(sample), start, bytes(run.data[start - run.start : stop - run.start]))

    def _from_store(self, shard: Shard, start: int, stop: int) -> memoryview:
        return self._dataset.store.view(shard.name, start=start, length=stop - start)

    def _is_hole(self, kept: bytes, start: int, sample: int) -> bool:
        # A sample begins with a tar header, which begins with a name.
        return not kept[self._dataset.index.span(sample, sample + 1)[0] - start]

    def _shard(self, sample: int) -> Shard:
        return self._dataset.shards[self._dataset.index.shard_of(sample)]
