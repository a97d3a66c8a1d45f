"""Kinds of damage, stored in reports, and a member's check."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from trainplane.errors import RunFailed

MISSING_SHARD = "missing-shard"  # the store has no such object
CUT_SHARD = "cut-shard"  # it ends early
LONG_SHARD = "long-shard"  # bytes follow its end
SWAPPED_SHARD = "swapped-shard"  # another shard of the same dataset has its name
STALE_SHARD = "stale-shard"  # it has none of its samples: a shard of another packing
ZEROS = "zeros"  # a hole of zero bytes
DAMAGED_HEADER = "damaged-header"
DAMAGED_PAYLOAD = "damaged-payload"
WRONG_MEMBER = "wrong-member"  # a valid header, but of another member
MISSING_MEMBER = "missing-member"
MOVED_MEMBER = "moved-member"  # complete, but not at the offset of the index
DAMAGED_PADDING = "damaged-padding"  # bytes that belong to no member
MISSING_INDEX = "missing-index"
DAMAGED_INDEX = "damaged-index"
UNDECODABLE = "undecodable"  # as packed, but the task cannot decode it

BLOCK_BYTES = 512  # of a tar: headers take one block, payloads are padded to a multiple


@dataclass(frozen=True)
class Damage:
    """One damaged sample, shard or index."""

    shard: str  # or the name of the index
    key: str  # of the sample; empty for the shard as a whole, or the index
    kind: str  # one of the above
    detail: str = field(default="", compare=False)  # for people

    def __str__(self) -> str:
        sample = f", sample {self.key}" if self.key else ""
        detail = f" ({self.detail})" if self.detail else ""
        return f"{self.shard}{sample}: {self.kind}{detail}"


class DamageError(RunFailed):
    """Damaged samples that may not be replaced."""

    def __init__(self, dataset: str, damage: Sequence[Damage], remedy: str) -> None:
        self.dataset = dataset
        self.damage = tuple(damage)
        self.remedy = remedy
        listed = "; ".join(map(str, self.damage[:3]))
        more = f"; and {len(self.damage) - 3} more" if len(self.damage) > 3 else ""
        super().__init__(f"dataset {dataset} is damaged: {listed}{more}; {remedy}")

    def __reduce__(self) -> tuple[type[DamageError], tuple[str, tuple[Damage, ...], str]]:
        # It crosses processes; by default an exception is rebuilt from its message alone.
        return type(self), (self.dataset, self.damage, self.remedy)


def padded(size: int) -> int:
    """Returns the bytes that a payload takes in a tar."""
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def member_name(header: bytes) -> str | None:
    """Returns the name in a valid ustar header, else None."""
    if len(header) != BLOCK_BYTES:
        return None
    # The sum counts the eight bytes of the checksum itself as spaces (POSIX ustar). Compared as text: with a changed
    # byte it may still parse as the same number, and all of today's writers pad it alike.
    total = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    if header[148:156] != b"%06o\0 " % total:
        return None
    try:
        return header[:100].rstrip(b"\0").decode()
    except ValueError:
        return None


def check_member(header: bytes, payload: bytes | memoryview, *, name: str, size: int, crc32: int) -> str | None:
    """Returns the kind of damage of a member, or None.

    Args:
        header: Bytes at the position of its header, fewer than 512 where the shard ended.
        payload: Bytes behind them, fewer than `size` where the shard ended.
        name: `KEY.EXT`, or `.EXT` where the key is not known.
        size: Bytes of the payload according to the index.
        crc32: Checksum of the payload according to the index.
    """
    if len(header) < BLOCK_BYTES or len(payload) < size:
        return CUT_SHARD
    stored_name = member_name(header)
    if stored_name is None:
        return DAMAGED_HEADER if any(header) else ZEROS
    if stored_name != name and not (name.startswith(".") and stored_name.endswith(name)):
        return WRONG_MEMBER
    if zlib.crc32(payload) != crc32:
        # 512 zero bytes in a row show a hole.
        return ZEROS if bytes(BLOCK_BYTES) in bytes(payload) else DAMAGED_PAYLOAD
    return None
