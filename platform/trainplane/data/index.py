"""Index of a dataset, `samples.parquet`: positions of all members.

One row per sample, one row group per shard. Columns: `shard` and `key` (text), `members` (a list of {extension, offset,
size, crc32}; offset and size of the payload in bytes; its header is the 512 bytes before). The same rows give the same
bytes under one release of pyarrow, whose name is in the file. In memory only the numbers stay, about 42 bytes per
sample with two members; keys are read when asked for. Rows and members stand in the order of the shard, because readers
request ranges from the first byte of one row to the last byte of another.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainplane.data.damage import BLOCK_BYTES
from trainplane.data.shard import Shard

INDEX_NAME = "samples.parquet"

_MEMBER = pa.struct(
    [("extension", pa.string()), ("offset", pa.int64()), ("size", pa.int64()), ("crc32", pa.uint32())],
)
_SCHEMA = pa.schema([("shard", pa.string()), ("key", pa.string()), ("members", pa.list_(_MEMBER))])

_MAX_EXTENSIONS = 256  # in one dataset: a member's extension is held as a number of one byte


@dataclass(frozen=True)
class Member:
    """One file of a sample."""

    extension: str
    offset: int  # byte of the shard where its payload begins
    size: int  # bytes of the payload
    crc32: int  # of the payload


@dataclass(frozen=True)
class Row:
    """Key and members of one sample, in the shard's order."""

    key: str
    members: tuple[Member, ...]


class IndexWriter:
    """Writes the index; holds the compressed file, not the rows."""

    def __init__(self) -> None:
        self._file = io.BytesIO()
        self._writer = pq.ParquetWriter(
            self._file,
            _SCHEMA,
            # All that could differ for equal rows is fixed or left out.
            version="2.6",
            data_page_version="1.0",
            compression="zstd",
            compression_level=3,
            use_dictionary=["shard", "members.list.element.extension"],
            write_statistics=False,
            store_schema=False,
        )

    def add(self, shard: str, rows: Sequence[Row]) -> None:
        """Adds the rows of the next shard."""
        # Arrow wants one flat array per column, and where each row's list ends.
        flat = [member for row in rows for member in row.members]
        structs = pa.StructArray.from_arrays(
            [
                pa.array([member.extension for member in flat], pa.string()),
                pa.array([member.offset for member in flat], pa.int64()),
                pa.array([member.size for member in flat], pa.int64()),
                pa.array([member.crc32 for member in flat], pa.uint32()),
            ],
            fields=list(_MEMBER),
        )
        ends = np.cumsum([0] + [len(row.members) for row in rows], dtype=np.int32)
        columns = [[shard] * len(rows), [row.key for row in rows], pa.ListArray.from_arrays(ends, structs)]
        self._writer.write_table(pa.table(columns, schema=_SCHEMA), row_group_size=len(rows))

    def finish(self) -> bytes:
        """Closes the file and returns its bytes."""
        self._writer.close()
        return self._file.getvalue()


class Index:
    """Rows of a dataset by sample number, through all shards.

    The caller has checked the digest of `data`. Raises `ValueError` if it is no index of these shards.
    """

    def __init__(self, data: bytes, *, shards: Sequence[Shard]) -> None:
        try:
            self._load(data, shards)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"it is no Parquet file, or a damaged one ({str(error)[:200]!r})") from error
        self._keys: tuple[int, list[str]] = (-1, [])
        self._lock = threading.Lock()

    def _load(self, data: bytes, shards: Sequence[Shard]) -> None:
        self._parquet = pq.ParquetFile(pa.BufferReader(data))
        # Types too, not the names alone: the code below reads columns as arrays of numbers.
        if not self._parquet.schema_arrow.equals(_SCHEMA):
            raise ValueError(f"its columns are {', '.join(self._parquet.schema_arrow.names)[:200]}, not an index's")
        # One row group per shard, with as many rows as the manifest has samples.
        metadata = self._parquet.metadata
        rows = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        if rows != [shard.samples for shard in shards]:
            raise ValueError(f"{INDEX_NAME} describes {len(rows)} shards of {sum(rows)} samples, not the manifest's")
        self._first_sample = np.concatenate([[0], np.cumsum(rows, dtype=np.int64)])
        for number, shard in enumerate(shards):
            _check_names(self._rows(number, "shard", "key"), shard)
        # Without threads, here and in `_rows`: where pages cannot be decoded, Arrow's pool sometimes ends the whole
        # process with SIGABRT at its exit (pyarrow 25.0.1). Threads save less than 0.1 s on a million samples.
        lists = self._parquet.read(columns=["members"], use_threads=False).column("members").combine_chunks()
        if len(lists) != self._first_sample[-1] or lists.null_count:
            raise ValueError("a row of it has no members")
        # Row i has the members first[i] … first[i + 1] of the flat arrays.
        lengths = np.asarray(lists.value_lengths(), dtype=np.int64)
        if not lengths.all():
            raise ValueError(f"sample {int(np.argmin(lengths))} has no members")
        self._first_member = np.concatenate([[0], np.cumsum(lengths)])
        # Flat arrays of all members: extension (as a number), offset, size, crc32.
        members = lists.flatten()
        if any(column.null_count for column in (members, *members.flatten())):
            raise ValueError("a member lacks its extension, offset, size or crc32")
        extensions = members.field("extension").dictionary_encode()
        self._extensions: list[str] = extensions.dictionary.to_pylist()
        if len(self._extensions) > _MAX_EXTENSIONS:
            raise ValueError(f"members have {len(self._extensions)} extensions, at most {_MAX_EXTENSIONS} can be read")
        self._extension = _array(extensions.indices, np.uint8)
        self._offset = _array(members.field("offset"), np.int64)
        self._size = _array(members.field("size"), np.int64)
        self._crc32 = _array(members.field("crc32"), np.uint32)
        # Readers compute ranges from these numbers, so none may lead out of its shard or into another member.
        misplaced = _misplaced(self._offset, self._size, self._first_member[self._first_sample], shards)
        if misplaced is not None:
            sample = int(np.searchsorted(self._first_member, misplaced, side="right")) - 1
            raise ValueError(
                f"the {self._size[misplaced]} bytes at {self._offset[misplaced]}, a member of sample {sample}, and the "
                "header before them overlap with the member before, or lie outside the shard"
            )

    def shard_of(self, sample: int) -> int:
        """Returns the number of a sample's shard."""
        return int(np.searchsorted(self._first_sample, sample, side="right")) - 1

    def samples_of(self, shard: int) -> range:
        """Returns the numbers of the samples in a shard."""
        return range(int(self._first_sample[shard]), int(self._first_sample[shard + 1]))

    def key_of(self, sample: int) -> str:
        """Returns a sample's key; keeps those of its shard."""
        shard = self.shard_of(sample)
        with self._lock:
            if self._keys[0] != shard:
                self._keys = (shard, self._rows(shard, "key").column("key").to_pylist())
            return self._keys[1][sample - int(self._first_sample[shard])]

    def members_of(self, sample: int) -> tuple[Member, ...]:
        """Returns a sample's members in the shard's order."""
        return tuple(
            Member(
                self._extensions[self._extension[at]], int(self._offset[at]), int(self._size[at]), int(self._crc32[at])
            )
            for at in range(int(self._first_member[sample]), int(self._first_member[sample + 1]))
        )

    def span(self, first: int, end: int) -> tuple[int, int]:
        """Bytes of samples first … end - 1, with headers.

        The range is [start, stop) of the one shard that they lie in.
        """
        last_member = int(self._first_member[end]) - 1
        start = int(self._offset[self._first_member[first]]) - BLOCK_BYTES
        return start, int(self._offset[last_member] + self._size[last_member])

    def _rows(self, shard: int, *columns: str) -> pa.Table:
        return self._parquet.read_row_group(shard, columns=list(columns), use_threads=False)


def _check_names(rows: pa.Table, shard: Shard) -> None:
    """Raises `ValueError` unless each row names shard and key."""
    if len(rows) != shard.samples or rows.column("shard").unique().to_pylist() != [shard.name]:
        raise ValueError(f"the rows that should be those of {shard.name} name another shard")
    keys = rows.column("key")
    # Checked here for `key_of`: its callers are not prepared for a damaged index.
    keys.validate(full=True)
    if keys.null_count:
        raise ValueError(f"a row of {shard.name} has no key")


def _misplaced(offset: Any, size: Any, first: Any, shards: Sequence[Shard]) -> int | None:
    """Returns the first misplaced member, or None.

    It lies outside its shard, or begins within the member before. `offset` and `size` are int64 (members,), in bytes;
    `first`, int64 (shards + 1,), has the number of each shard's first member, and of all members.
    """
    wrong = (offset < BLOCK_BYTES) | (size < 0)
    if not wrong.any():
        # As unsigned numbers the sum of any two of these fits into 64 bits.
        ends = offset.view(np.uint64) + size.view(np.uint64)
        # A header may not begin before the member before it ends; the first of a shard has none before it.
        wrong[1:] = ends[:-1] > (offset[1:] - BLOCK_BYTES).view(np.uint64)
        wrong[first[:-1]] = False
        last = first[1:] - 1
        wrong[last] |= ends[last] > np.array([shard.bytes for shard in shards], dtype=np.uint64)
    return int(np.argmax(wrong)) if wrong.any() else None


def _array(column: Any, dtype: Any) -> Any:
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=dtype)
