"""Finds samples by their content.

The index has length and crc32 of every member, so a few candidates are read and compared, byte by byte. The content of
a sample is its first member that is not JSON: what stands in the JSON, such as a path, says nothing about it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np

from trainplane.data.index import Member, index_rows
from trainplane.data.manifest import Dataset
from trainplane.data.pack.shard_builder import KEY_HASH

Codes: TypeAlias = "np.ndarray[Any, np.dtype[np.uint64]]"

_DESCRIPTION = "json"


class Contents:
    """Content of a dataset's samples."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        codes, keys = [], []
        for rows in index_rows(dataset.index_bytes()):
            codes.append(_codes(rows.column("members").combine_chunks()))
            keys.append(np.array([int(key[-KEY_HASH:], 16) for key in rows.column("key").to_pylist()], np.uint64))
        self.codes: Codes = np.concatenate(codes)
        self._order = np.argsort(self.codes, kind="stable")
        self._sorted = self.codes[self._order]
        self._keys = np.sort(np.concatenate(keys))

    def find(self, data: bytes) -> int | None:
        """Returns the first sample with this content, or None."""
        return next((sample for sample in self._candidates(_code(data)) if self.read(sample) == data), None)

    def find_sample(self, other: Contents, sample: int) -> int | None:
        """Returns the first sample with the content of another's."""
        candidates = self._candidates(other.codes[sample])
        data: bytes | None = None
        for candidate in candidates:
            # Read once, and only if there is something to compare with.
            data = other.read(sample) if data is None else data
            if self.read(candidate) == data:
                return candidate
        return None

    def has_key(self, key: str) -> bool:
        """Tells if a sample has this key."""
        code = np.uint64(int(key[-KEY_HASH:], 16))
        at = int(np.searchsorted(self._keys, code))
        return at < len(self._keys) and bool(self._keys[at] == code)

    def read(self, sample: int) -> bytes:
        """Reads the content of a sample."""
        return self.dataset.read_member(sample, self.member(sample))

    def member(self, sample: int) -> Member:
        """Returns the member that is the content."""
        members = self.dataset.index.members_of(sample)
        return next((member for member in members if member.extension != _DESCRIPTION), members[0])

    def _candidates(self, code: Any) -> Iterator[int]:
        first = int(np.searchsorted(self._sorted, np.uint64(code), side="left"))
        end = int(np.searchsorted(self._sorted, np.uint64(code), side="right"))
        yield from (int(sample) for sample in self._order[first:end])


def _codes(lists: Any) -> Codes:
    """Length and crc32 of each row's content, in one number."""
    members = lists.flatten()
    ends = np.cumsum(np.asarray(lists.value_lengths(), dtype=np.int64))
    is_content = np.array([name != _DESCRIPTION for name in members.field("extension").to_pylist()])
    sizes = np.asarray(members.field("size"), dtype=np.uint64)
    sums = np.asarray(members.field("crc32"), dtype=np.uint64)
    starts = np.concatenate([[0], ends[:-1]])
    # The first content of each row, else its first member.
    positions = np.where(is_content, np.arange(len(is_content)), len(is_content))
    firsts = np.minimum.reduceat(positions, starts)
    chosen = np.where(firsts < ends, firsts, starts)
    return (sizes[chosen] << np.uint64(32)) | sums[chosen]


def _code(data: bytes) -> int:
    return (len(data) & 0xFFFFFFFF) << 32 | zlib.crc32(data)
