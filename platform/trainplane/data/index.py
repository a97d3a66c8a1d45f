"""`samples.parquet`: where in its shard every sample's members lie. One row a sample, one row group a shard.

Columns: `shard` and `key` (text), `members` (a list of {extension, offset, size, crc32}; offset and size of the
payload in bytes, its header being the 512 bytes before). Same rows, same bytes, under one release of pyarrow: the
file carries no time, no statistics, and the name of that release. Read, only the numbers stay in memory, about 42
bytes a sample with two members; keys are fetched when one is asked for. Rows and members stand in the order in which
they lie in the shard: what readers ask a store for are spans from one row's first byte to another's last.
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

_MOST_EXTENSIONS = 256  # in one dataset: each member's is held as a number of one byte


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

    data   -- the bytes of `samples.parquet`, checked against the manifest by the caller
    shards -- those of the manifest; a `ValueError` says where the file cannot be read or is no index of them
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
        # Not the names alone: what follows takes columns as arrays of numbers.
        if not self._parquet.schema_arrow.equals(_SCHEMA):
            raise ValueError(f"its columns are {', '.join(self._parquet.schema_arrow.names)[:200]}, not an index's")
        metadata = self._parquet.metadata
        found = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        if found != [shard.samples for shard in shards]:
            raise ValueError(f"{INDEX_NAME} describes {len(found)} shards of {sum(found)} samples, not the manifest's")
        self._first_sample = np.concatenate([[0], np.cumsum(found, dtype=np.int64)])
        for number, shard in enumerate(shards):
            _check_names(self._rows(number, "shard", "key"), shard)
        # Without threads, here and in `_rows`: where pages cannot be decoded, Arrow's pool now and then ends the whole
        # process with SIGABRT when it exits (pyarrow 25.0.1). They save less than 0.1 s of a million samples.
        lists = self._parquet.read(columns=["members"], use_threads=False).column("members").combine_chunks()
        if len(lists) != self._first_sample[-1] or lists.null_count:
            raise ValueError("a row of it has no members")
        # Row i has the members first[i] … first[i + 1] of the flat arrays.
        lengths = np.asarray(lists.value_lengths(), dtype=np.int64)
        if not lengths.all():
            raise ValueError(f"sample {int(np.argmin(lengths))} has no members")
        self._first_member = np.concatenate([[0], np.cumsum(lengths)])
        members = lists.flatten()
        if any(column.null_count for column in (members, *members.flatten())):
            raise ValueError("a member lacks its extension, offset, size or crc32")
        extensions = members.field("extension").dictionary_encode()
        self._extensions: list[str] = extensions.dictionary.to_pylist()
        if len(self._extensions) > _MOST_EXTENSIONS:
            raise ValueError(f"members have {len(self._extensions)} extensions, at most {_MOST_EXTENSIONS} can be read")
        self._extension = _array(extensions.indices, np.uint8)
        self._offset = _array(members.field("offset"), np.int64)
        self._size = _array(members.field("size"), np.int64)
        self._crc32 = _array(members.field("crc32"), np.uint32)
        misplaced = _misplaced(self._offset, self._size, self._first_member[self._first_sample], shards)
        if misplaced is not None:
            sample = int(np.searchsorted(self._first_member, misplaced, side="right")) - 1
            raise ValueError(
                f"the {self._size[misplaced]} bytes at {self._offset[misplaced]}, a member of sample {sample}, and the "
                "header before them overlap with the member before, or lie outside the shard"
            )

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
                self._keys = (shard, self._rows(shard, "key").column("key").to_pylist())
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

    def _rows(self, shard: int, *columns: str) -> pa.Table:
        return self._parquet.read_row_group(shard, columns=list(columns), use_threads=False)


def _check_names(rows: pa.Table, shard: Shard) -> None:
    """A `ValueError` where these are not a shard's rows with a key each."""
    if len(rows) != shard.samples or rows.column("shard").unique().to_pylist() != [shard.name]:
        raise ValueError(f"the rows that should be those of {shard.name} name another shard")
    keys = rows.column("key")
    # Here for the sake of `key_of`, which is called where nobody expects a damaged index any more.
    keys.validate(full=True)
    if keys.null_count:
        raise ValueError(f"a row of {shard.name} has no key")


def _misplaced(offset: Any, size: Any, first: Any, shards: Sequence[Shard]) -> int | None:
    """The first member that lies outside its shard, or begins within the one before it; None when none does.

    `first` are the numbers of the first member of each shard, and behind them how many members there are.
    """
    wrong = (offset < BLOCK_BYTES) | (size < 0)
    if not wrong.any():
        # Without signs the sum of any two of these fits into 64 bits.
        ends = offset.view(np.uint64) + size.view(np.uint64)
        wrong[1:] = ends[:-1] > (offset[1:] - BLOCK_BYTES).view(np.uint64)
        wrong[first[:-1]] = False
        last = first[1:] - 1
        wrong[last] |= ends[last] > np.array([shard.bytes for shard in shards], dtype=np.uint64)
    return int(np.argmax(wrong)) if wrong.any() else None


def _array(column: Any, dtype: Any) -> Any:
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=dtype)
