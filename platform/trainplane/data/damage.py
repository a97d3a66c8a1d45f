"""What can be wrong with stored samples, under names that stay the same, and how one member of a shard is judged.

Not covered: finding damage in a whole dataset (verify.py) and doing without damaged samples (loader.py).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from trainplane.errors import RunFailed

MISSING_SHARD = "missing-shard"  # the store has no such object
CUT_SHARD = "cut-shard"  # it ends early
LONG_SHARD = "long-shard"  # bytes follow its end
SWAPPED_SHARD = "swapped-shard"  # another shard of the same dataset stands in its place
STALE_SHARD = "stale-shard"  # none of its samples is in it: a shard of another packing
ZEROS = "zeros"  # a hole of zero bytes
DAMAGED_HEADER = "damaged-header"
DAMAGED_PAYLOAD = "damaged-payload"
WRONG_MEMBER = "wrong-member"  # a sound header, but of another member
MISSING_MEMBER = "missing-member"
MOVED_MEMBER = "moved-member"  # whole, but not where the index has it
DAMAGED_PADDING = "damaged-padding"  # bytes that belong to no member
MISSING_INDEX = "missing-index"
DAMAGED_INDEX = "damaged-index"
UNDECODABLE = "undecodable"  # as packed, but the task cannot read it

BLOCK_BYTES = 512  # of a tar: headers take one, payloads are padded to a multiple


@dataclass(frozen=True)
class Damage:
    """One finding. `key` is empty when the shard as a whole, or the index, is meant; `detail` is for people."""

    shard: str
    key: str
    kind: str
    detail: str = field(default="", compare=False)

    def __str__(self) -> str:
        sample = f", sample {self.key}" if self.key else ""
        detail = f" ({self.detail})" if self.detail else ""
        return f"{self.shard}{sample}: {self.kind}{detail}"


class DamageError(RunFailed):
    """Damaged samples were met and may not be done without."""

    def __init__(self, dataset: str, damage: Sequence[Damage], remedy: str) -> None:
        self.dataset = dataset
        self.damage = tuple(damage)
        self.remedy = remedy
        shown = "; ".join(str(one) for one in self.damage[:3])
        more = f"; and {len(self.damage) - 3} more" if len(self.damage) > 3 else ""
        super().__init__(f"dataset {dataset} is damaged: {shown}{more}; {remedy}")

    def __reduce__(self) -> tuple[type[DamageError], tuple[str, tuple[Damage, ...], str]]:
        return type(self), (self.dataset, self.damage, self.remedy)


def padded(size: int) -> int:
    """Bytes that a payload of `size` bytes takes in a tar."""
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def member_name(header: bytes) -> str | None:
    """The name in a ustar header of 512 bytes whose checksum holds; None when it does not."""
    if len(header) != BLOCK_BYTES:
        return None
    # The sum is taken with the eight bytes of the checksum itself read as spaces (POSIX ustar). As text: with a byte
    # spoilt it may still be read as the same number, and every writer of today pads it alike.
    total = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    if header[148:156] != b"%06o\0 " % total:
        return None
    try:
        return header[:100].rstrip(b"\0").decode()
    except ValueError:
        return None


def judge_member(header: bytes, payload: bytes | memoryview, *, name: str, size: int, crc32: int) -> str | None:
    """The kind of damage in one member, None when it is sound.

    `header` and `payload` are what stands where 512 and `size` bytes should, shorter where the shard ended. `name`
    is `KEY.EXT`, or `.EXT` where the key is not known.
    """
    if len(header) < BLOCK_BYTES or len(payload) < size:
        return CUT_SHARD
    found = member_name(header)
    if found is None:
        return DAMAGED_HEADER if any(header) else ZEROS
    if found != name and not (name.startswith(".") and found.endswith(name)):
        return WRONG_MEMBER
    if zlib.crc32(payload) != crc32:
        return ZEROS if bytes(BLOCK_BYTES) in bytes(payload) else DAMAGED_PAYLOAD
    return None
