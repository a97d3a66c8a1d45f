"""`samples.parquet`: where in its shard every sample's members lie. One row a sample, one row group a shard.

Columns: `shard` and `key` (text), `members` (a list of {extension, offset, size, crc32}; offset and size of the
payload in bytes, its header being the 512 bytes before). Same rows, same bytes, under one release of pyarrow: the
file carries no time, no statistics, and the name of that release. Read, only the numbers stay in memory, about 42
bytes a sample with two members; keys are fetched when one is asked for.
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

INDEX_NAME = "samples.parquet"

_MEMBER = pa.struct(
    [("extension", pa.string()), ("offset", pa.int64()), ("size", pa.int64()), ("crc32", pa.uint32())],
)
_SCHEMA = pa.schema([("shard", pa.string()), ("key", pa.string()), ("members", pa.list_(_MEMBER))])


@dataclass(frozen=True)
class Member:
    """One file of a sample: `offset` and `size` in bytes, of its payload within the shard."""

    extension: str
    offset: int
    size: int
    crc32: int


@dataclass(frozen=True)
class Row:
    """One sample: its key and its members in the order in which they lie in the shard."""

    key: str
    members: tuple[Member, ...]


class IndexWriter:
    """Gathers the rows of shard after shard; holds the compressed file, not the rows."""

    def __init__(self) -> None:
        self._file = io.BytesIO()
        self._writer = pq.ParquetWriter(
            self._file,
            _SCHEMA,
            version="2.6",
            data_page_version="1.0",
            compression="zstd",
            compression_level=3,
            use_dictionary=["shard", "members.list.element.extension"],
            write_statistics=False,
            store_schema=False,
        )

    def add(self, shard: str, rows: Sequence[Row]) -> None:
        """The rows of the next shard."""
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
        """The file's bytes."""
        self._writer.close()
        return self._file.getvalue()


class Index:
    """The rows of a dataset, by sample number: samples are numbered through all shards in order.

    data        -- the bytes of `samples.parquet`, checked against the manifest by the caller
    shard_sizes -- samples in each shard; a `ValueError` says where the file disagrees
    """

    def __init__(self, data: bytes, *, shard_sizes: Sequence[int]) -> None:
        try:
            self._parquet = pq.ParquetFile(pa.BufferReader(data))
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"it is no Parquet file ({error})") from error
        # Not the names alone: what follows takes columns as arrays of numbers.
        if not self._parquet.schema_arrow.equals(_SCHEMA):
            raise ValueError(f"its columns are {', '.join(self._parquet.schema_arrow.names)[:200]}, not an index's")
        metadata = self._parquet.metadata
        found = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        if found != list(shard_sizes):
            raise ValueError(f"{INDEX_NAME} describes {len(found)} shards of {sum(found)} samples, not the manifest's")
        self._first_sample = np.concatenate([[0], np.cumsum(shard_sizes, dtype=np.int64)])
        lists = self._parquet.read(columns=["members"]).column("members").combine_chunks()
        members = lists.flatten()
        # Row i has the members first[i] … first[i + 1] of the flat arrays.
        lengths = np.asarray(lists.value_lengths(), dtype=np.int64)
        self._first_member = np.concatenate([[0], np.cumsum(lengths)])
        extensions = members.field("extension").dictionary_encode()
        self._extensions: list[str] = extensions.dictionary.to_pylist()
        self._extension = _array(extensions.indices, np.uint8)
        self._offset = _array(members.field("offset"), np.int64)
        self._size = _array(members.field("size"), np.int64)
        self._crc32 = _array(members.field("crc32"), np.uint32)
        self._keys: tuple[int, list[str]] = (-1, [])
        self._lock = threading.Lock()

    def shard_of(self, sample: int) -> int:
        """Number of the shard that holds the sample."""
        return int(np.searchsorted(self._first_sample, sample, side="right")) - 1

    def samples_of(self, shard: int) -> range:
        """Numbers of the samples in a shard."""
        return range(int(self._first_sample[shard]), int(self._first_sample[shard + 1]))

    def key_of(self, sample: int) -> str:
        shard = self.shard_of(sample)
        with self._lock:
            if self._keys[0] != shard:
                self._keys = (shard, self._parquet.read_row_group(shard, columns=["key"]).column("key").to_pylist())
            return self._keys[1][sample - int(self._first_sample[shard])]

    def members_of(self, sample: int) -> tuple[Member, ...]:
        """The sample's members in the order in which they lie in the shard."""
        return tuple(
            Member(
                self._extensions[self._extension[at]], int(self._offset[at]), int(self._size[at]), int(self._crc32[at])
            )
            for at in range(int(self._first_member[sample]), int(self._first_member[sample + 1]))
        )

    def span(self, first: int, end: int) -> tuple[int, int]:
        """Bytes [start, stop) of their shard that hold samples first … end - 1, headers included."""
        last_member = int(self._first_member[end]) - 1
        start = int(self._offset[self._first_member[first]]) - BLOCK_BYTES
        return start, int(self._offset[last_member] + self._size[last_member])


def _array(column: Any, dtype: Any) -> Any:
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=dtype)
