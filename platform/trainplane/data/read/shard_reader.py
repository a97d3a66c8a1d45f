"""Reads bytes of shards from the cache or the store.

They are not checked here: fetch.py does it before any of them are cached.
"""

from __future__ import annotations

from dataclasses import dataclass

from trainplane.data.manifest import Dataset
from trainplane.data.read.cache import ShardCache
from trainplane.data.shard import Shard


@dataclass(frozen=True)
class Chunk:
    """Bytes of neighbouring samples."""

    data: bytes | memoryview
    start: int  # byte of the shard where they begin
    fetched: range  # samples whose bytes came from the store


class ShardReader:
    """Reads bytes of one dataset's samples.

    Several threads may call the `read…` methods and `cache_sample`. Close it.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._cache = ShardCache(dataset.cache, dataset.digest) if dataset.cache else None

    def close(self) -> None:
        """Writes the rest to the cache and closes it."""
        if self._cache is not None:
            self._cache.close()

    def read(self, first: int, end: int) -> Chunk:
        """Reads samples first … end - 1 of a shard.

        Raises `NotFound` if the store has no such shard.
        """
        shard = self._shard(first)
        start, stop = self._dataset.index.span(first, end)
        cached = self._cache.read(shard, start, stop - start) if self._cache else None
        if cached is None:
            return Chunk(self._from_store(shard, start, stop), start, range(first, end))
        holes = [sample for sample in range(first, end) if self._is_hole(cached, start, sample)]
        if not holes:
            return Chunk(cached, start, range(first, first))
        # Fetch from the first hole to the last in one request, although cached samples may lie between.
        low, high = self._dataset.index.span(holes[0], holes[-1] + 1)
        data = b"".join((cached[: low - start], self._from_store(shard, low, high), cached[high - start :]))
        return Chunk(data, start, range(holes[0], holes[-1] + 1))

    def read_from_store(self, sample: int) -> Chunk:
        """Reads one sample from the store, not from the cache."""
        start, stop = self._dataset.index.span(sample, sample + 1)
        return Chunk(self._from_store(self._shard(sample), start, stop), start, range(sample, sample + 1))

    def cache_sample(self, sample: int, chunk: Chunk) -> None:
        """Caches a valid sample that the store gave."""
        if self._cache is not None and sample in chunk.fetched:
            start, stop = self._dataset.index.span(sample, sample + 1)
            self._cache.write(self._shard(sample), start, bytes(chunk.data[start - chunk.start : stop - chunk.start]))

    def _from_store(self, shard: Shard, start: int, stop: int) -> memoryview:
        store, key = self._dataset.shard_place(shard)
        return store.view(key, start=start, length=stop - start)

    def _is_hole(self, cached: bytes, start: int, sample: int) -> bool:
        # A sample begins with a tar header, which begins with a name: never with a zero byte.
        return not cached[self._dataset.index.span(sample, sample + 1)[0] - start]

    def _shard(self, sample: int) -> Shard:
        return self._dataset.shards[self._dataset.index.shard_of(sample)]
