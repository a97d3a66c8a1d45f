"""Positions of all members, in one block of memory.

The block may be memory of this process or a file that all processes of a host map (index_file.py). It takes 30 bytes
per sample with two members, or 46 where a shard has 4 GiB or more. Keys are compressed, shard by shard: they are read
only to name a sample.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainplane.data.damage import BLOCK_BYTES
from trainplane.data.shard import Shard

Block: TypeAlias = Any
"""Writable or mapped memory that numpy can look at: a bytearray or an mmap."""

MAX_EXTENSIONS = 256  # in one dataset: a member's extension is held as a number of one byte

_ALIGNMENT = 64
_NARROW_LIMIT = 2**32  # bytes of a shard whose positions fit into 32 bits


@dataclass(frozen=True)
class TableShape:
    """Sizes that fix where each column lies in the block."""

    samples: int
    members: int  # of all samples
    wide: bool  # positions of 64 bits

    @property
    def columns(self) -> dict[str, tuple[int, Any, int]]:
        """Byte, dtype and length of each column."""
        position = np.dtype(np.uint64 if self.wide else np.uint32)
        kinds = {
            # Sample i has the members first_member[i] … first_member[i + 1] - 1.
            "first_member": (np.dtype(np.uint64 if self.members >= 2**32 else np.uint32), self.samples + 1),
            "offset": (position, self.members),
            "size": (position, self.members),
            "crc32": (np.dtype(np.uint32), self.members),
            "extension": (np.dtype(np.uint8), self.members),
        }
        columns, byte = {}, 0
        for name, (dtype, length) in kinds.items():
            columns[name] = (byte, dtype, length)
            byte += -(-dtype.itemsize * length // _ALIGNMENT) * _ALIGNMENT
        return columns

    @property
    def bytes(self) -> int:
        """Bytes of the block."""
        byte, dtype, length = self.columns["extension"]
        return byte + int(dtype.itemsize) * length

    def views(self, block: Block) -> dict[str, Any]:
        """Returns the columns as arrays over the block."""
        return {name: np.frombuffer(block, dtype, length, byte) for name, (byte, dtype, length) in self.columns.items()}


@dataclass
class IndexTable:
    """Numbers and keys of all samples."""

    shape: TableShape
    block: Block
    extensions: list[str] = field(default_factory=list)
    keys: list[Any] = field(default_factory=list)  # of each shard, compressed

    def __post_init__(self) -> None:
        self.columns = self.shape.views(self.block)

    def keys_of(self, shard: int) -> list[str]:
        """Returns the keys of a shard's samples."""
        return list(json.loads(zlib.decompress(self.keys[shard])))


def read_table(
    data: bytes, shards: Sequence[Shard], schema: pa.Schema, allocate: Callable[[int], Block] = bytearray
) -> IndexTable:
    """Reads and checks an index, row group by row group.

    Args:
        data: Bytes of the Parquet file.
        shards: Shards of the manifest, one row group for each.
        schema: Columns that it must have.
        allocate: Returns the block, zeroed, of so many bytes.

    Raises:
        ValueError: If it is no index of these shards.
    """
    parquet = pq.ParquetFile(pa.BufferReader(data))
    # Types too, not the names alone: the code below reads columns as arrays of numbers.
    if not parquet.schema_arrow.equals(schema):
        raise ValueError(f"its columns are {', '.join(parquet.schema_arrow.names)[:200]}, not an index's")
    # One row group per shard, with as many rows as the manifest has samples.
    metadata = parquet.metadata
    rows = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    if rows != [shard.samples for shard in shards]:
        raise ValueError(f"it describes {len(rows)} shards of {sum(rows)} samples, not the manifest's")
    shape = TableShape(sum(rows), _members(metadata), wide=any(shard.bytes >= _NARROW_LIMIT for shard in shards))
    # A member has a header of one block, so a hostile count does not reach the allocation.
    if shape.members > sum(shard.bytes for shard in shards) // BLOCK_BYTES:
        raise ValueError(f"it describes {shape.members} members, more than the shards have room for")
    try:
        table = IndexTable(shape, allocate(shape.bytes))
    except MemoryError:
        raise ValueError(f"it describes {shape.samples} samples, more than this machine's memory holds") from None
    reader = _Reader(table)
    for number, shard in enumerate(shards):
        # Without threads: where pages cannot be decoded, Arrow's pool sometimes ends the whole process with SIGABRT at
        # its exit (pyarrow 25.0.1). Threads save less than 0.1 s on a million samples.
        reader.add(parquet.read_row_group(number, use_threads=False), shard)
    reader.finish()
    return table


def _members(metadata: Any) -> int:
    # The last column is a number of each member. An empty list counts as one, and is refused when it is read.
    last = metadata.num_columns - 1
    return sum(metadata.row_group(number).column(last).num_values for number in range(metadata.num_row_groups))


class _Reader:
    """Copies checked row groups into a table."""

    def __init__(self, table: IndexTable) -> None:
        self._table = table
        self._numbers: dict[str, int] = {}  # of extensions
        self._sample = 0
        self._member = 0

    def add(self, rows: pa.Table, shard: Shard) -> None:
        """Adds the row group of the next shard."""
        keys = _checked_keys(rows, shard)
        lists = rows.column("members").combine_chunks()
        if len(lists) != shard.samples or lists.null_count:
            raise ValueError("a row of it has no members")
        lengths = np.asarray(lists.value_lengths(), dtype=np.int64)
        if not lengths.all():
            raise ValueError(f"sample {self._sample + int(np.argmin(lengths))} has no members")
        members = lists.flatten()
        if any(column.null_count for column in (members, *members.flatten())):
            raise ValueError("a member lacks its extension, offset, size or crc32")
        offset, size = _array(members.field("offset")), _array(members.field("size"))
        ends = np.cumsum(lengths)
        # Readers compute ranges from these numbers, so none may lead out of its shard or into another member.
        misplaced = _misplaced(offset, size, shard)
        if misplaced is not None:
            sample = self._sample + int(np.searchsorted(ends, misplaced, side="right"))
            raise ValueError(
                f"the {size[misplaced]} bytes at {offset[misplaced]}, a member of sample {sample}, and the "
                "header before them overlap with the member before, or lie outside the shard"
            )
        stop = self._member + len(offset)
        if stop > self._table.shape.members:
            raise ValueError("its rows have more members than its description says")
        columns = self._table.columns
        place = slice(self._member, stop)
        columns["offset"][place] = offset
        columns["size"][place] = size
        columns["crc32"][place] = _array(members.field("crc32"))
        columns["extension"][place] = self._extensions_of(members.field("extension"))
        columns["first_member"][self._sample + 1 : self._sample + 1 + len(ends)] = self._member + ends
        self._table.keys.append(zlib.compress(json.dumps(keys).encode(), 1))
        self._sample += len(ends)
        self._member = stop

    def finish(self) -> None:
        """Raises `ValueError` if members are missing."""
        if self._member != self._table.shape.members:
            raise ValueError("its rows have fewer members than its description says")
        self._table.extensions = list(self._numbers)

    def _extensions_of(self, column: Any) -> Any:
        encoded = column.dictionary_encode()
        names = encoded.dictionary.to_pylist()
        numbers = [self._numbers.setdefault(name, len(self._numbers)) for name in names]
        if len(self._numbers) > MAX_EXTENSIONS:
            raise ValueError(f"members have {len(self._numbers)} extensions, at most {MAX_EXTENSIONS} can be read")
        return np.array(numbers, dtype=np.uint8)[_array(encoded.indices)]


def _checked_keys(rows: pa.Table, shard: Shard) -> list[str]:
    """Returns the keys; `ValueError` unless rows name shard and key."""
    if len(rows) != shard.samples or rows.column("shard").unique().to_pylist() != [shard.name]:
        raise ValueError(f"the rows that should be those of {shard.name} name another shard")
    keys = rows.column("key")
    # Checked here for `keys_of`: its callers are not prepared for a damaged index.
    keys.validate(full=True)
    if keys.null_count:
        raise ValueError(f"a row of {shard.name} has no key")
    return list(keys.to_pylist())


def _misplaced(offset: Any, size: Any, shard: Shard) -> int | None:
    """Returns the first misplaced member of a shard, or None.

    It lies outside the shard, or begins within the member before. `offset` and `size` are int64 (members,), in bytes.
    """
    wrong = (offset < BLOCK_BYTES) | (size < 0)
    if not wrong.any():
        # As unsigned numbers the sum of any two of these fits into 64 bits.
        ends = offset.view(np.uint64) + size.view(np.uint64)
        # A header may not begin before the member before it ends.
        wrong[1:] = ends[:-1] > (offset[1:] - BLOCK_BYTES).view(np.uint64)
        wrong[-1] |= ends[-1] > np.uint64(shard.bytes)
    return int(np.argmax(wrong)) if wrong.any() else None


def _array(column: Any) -> Any:
    return np.asarray(column.to_numpy(zero_copy_only=False))
