"""Index of a dataset, `samples.parquet`: positions of all members.

One row per sample, one row group per shard. Columns: `shard` and `key` (text), `members` (a list of {extension, offset,
size, crc32}; offset and size of the payload in bytes; its header is the 512 bytes before). The same rows give the same
bytes under one release of pyarrow, whose name is in the file. Readers hold a table of its numbers (index_table.py).
Rows and members stand in the order of the shard, because readers request ranges from the first byte of one row to the
last byte of another.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainplane.data.damage import BLOCK_BYTES
from trainplane.data.index_file import IndexFolder
from trainplane.data.index_table import IndexTable, read_table
from trainplane.data.shard import Shard

INDEX_NAME = "samples.parquet"

Parser: TypeAlias = Callable[[bytes], IndexTable]

_MEMBER = pa.struct(
    [("extension", pa.string()), ("offset", pa.int64()), ("size", pa.int64()), ("crc32", pa.uint32())],
)
SCHEMA = pa.schema([("shard", pa.string()), ("key", pa.string()), ("members", pa.list_(_MEMBER))])


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
            SCHEMA,
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
        self._writer.write_table(pa.table(columns, schema=SCHEMA), row_group_size=len(rows))

    def add_rows(self, rows: pa.Table) -> None:
        """Adds the rows of the next shard, as `index_rows` yields."""
        self._writer.write_table(rows.combine_chunks(), row_group_size=len(rows))

    def finish(self) -> bytes:
        """Closes the file and returns its bytes."""
        self._writer.close()
        return self._file.getvalue()


class Index:
    """Rows of a dataset by sample number, through all shards."""

    def __init__(self, table: IndexTable, *, shards: Sequence[Shard]) -> None:
        self._table = table
        columns = table.columns
        self._first_member, self._offset, self._size = columns["first_member"], columns["offset"], columns["size"]
        self._crc32, self._extension = columns["crc32"], columns["extension"]
        self._first_sample = np.concatenate([[0], np.cumsum([shard.samples for shard in shards], dtype=np.int64)])
        self._keys: tuple[int, list[str]] = (-1, [])
        self._lock = threading.Lock()

    @classmethod
    def parse(cls, data: bytes, *, shards: Sequence[Shard]) -> Index:
        """Reads an index into memory of this process.

        The caller has checked the digest of `data`. Raises `ValueError` if it is no index of these shards.
        """
        with _arrow_errors():
            return cls(read_table(data, shards, SCHEMA), shards=shards)

    @classmethod
    def shared(
        cls, folder: str | None, digest: str, *, shards: Sequence[Shard], read: Callable[[Parser], IndexTable]
    ) -> Index:
        """Maps the index that all processes of this host share.

        Args:
            folder: Folder of the host's caches; None is the system's temporary folder.
            digest: Digest of the dataset.
            shards: Its shards.
            read: Reads the object and passes its bytes, whose digest is right, to a parser.

        Raises:
            ValueError: If it is no index of these shards.
            OSError: Where files cannot be shared on this host.
        """
        host = IndexFolder(folder)
        table = host.get(digest)
        if table is None:
            with host.locked():
                table = host.get(digest) or read(lambda data: _added(host, digest, data, shards))
        return cls(table, shards=shards)

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
                self._keys = (shard, self._table.keys_of(shard))
            return self._keys[1][sample - int(self._first_sample[shard])]

    def members_of(self, sample: int) -> tuple[Member, ...]:
        """Returns a sample's members in the shard's order."""
        names = self._table.extensions
        return tuple(
            Member(names[self._extension[at]], int(self._offset[at]), int(self._size[at]), int(self._crc32[at]))
            for at in range(int(self._first_member[sample]), int(self._first_member[sample + 1]))
        )

    def span(self, first: int, end: int) -> tuple[int, int]:
        """Bytes of samples first … end - 1, with headers.

        The range is [start, stop) of the one shard that they lie in.
        """
        last_member = int(self._first_member[end]) - 1
        start = int(self._offset[self._first_member[first]]) - BLOCK_BYTES
        return start, int(self._offset[last_member]) + int(self._size[last_member])


def index_rows(data: bytes) -> Iterator[pa.Table]:
    """Yields the rows of each shard in a checked index."""
    parquet = pq.ParquetFile(pa.BufferReader(data))
    for number in range(parquet.metadata.num_row_groups):
        # Without threads, for the reason in `read_table`.
        yield parquet.read_row_group(number, use_threads=False)


def _added(host: IndexFolder, digest: str, data: bytes, shards: Sequence[Shard]) -> IndexTable:
    with _arrow_errors():
        return host.add(digest, data, shards, SCHEMA)


@contextmanager
def _arrow_errors() -> Iterator[None]:
    # Arrow's error for bytes that cannot be read is an OSError at times; those of the system have a number.
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"it is no Parquet file, or a damaged one ({str(error)[:200]!r})") from error
