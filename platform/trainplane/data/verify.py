"""Checks every byte of a dataset again, and repairs damage.

    damage = verify(Dataset.open("s3://bucket/datasets/places2-train"))      # [] if valid
    damage, remaining = repair(dataset, open_store("s3://backup/datasets/places2-train"))

A shard is valid if its sha256, its length and all its members are. The members are checked although the sha256 holds:
manifest and index may agree and still describe the shard wrongly, and readers trust the index. An invalid shard is
examined: which samples, and by a cut, a hole of zeros, a flipped byte, a removed member, or another shard's name. Bytes
may also be corrupted on the way, so only what two readings agree on is called damage.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from trainplane.data.damage import (
    BLOCK_BYTES,
    CUT_SHARD,
    DAMAGED_INDEX,
    DAMAGED_PADDING,
    LONG_SHARD,
    MISSING_INDEX,
    MISSING_MEMBER,
    MISSING_SHARD,
    MOVED_MEMBER,
    STALE_SHARD,
    SWAPPED_SHARD,
    WRONG_MEMBER,
    Damage,
    check_member,
    member_name,
)
from trainplane.data.index import INDEX_NAME, Index
from trainplane.data.manifest import Dataset, parse_index
from trainplane.data.shard import Shard, shard_place
from trainplane.errors import UserError
from trainplane.storage import NotFound, Store

_READINGS = 8  # of an object whose bytes differ from reading to reading


ShardChecks: TypeAlias = Callable[[Dataset, Index | None], Iterator[list[Damage]]]
"""Yields the damage of each shard in their order; without an index where that is damaged."""


@dataclass(frozen=True)
class _DamagedMember:
    """Member that is not as packed."""

    key: str  # of its sample
    name: str  # in the tar
    at: int  # byte of the shard where its header should be
    kind: str  # of damage, from its own bytes alone


def one_after_the_other(dataset: Dataset, index: Index | None) -> Iterator[list[Damage]]:
    """Checks the shards here, one at a time in memory."""
    return (damage_of_shard(dataset, number, index) for number in range(dataset.num_shards))


def verify(
    dataset: Dataset,
    *,
    progress: Callable[[Shard], None] = lambda shard: None,
    checks: ShardChecks = one_after_the_other,
) -> list[Damage]:
    """Returns all damage of a dataset, shard by shard.

    Without a valid index, damaged shards are named but not their samples.

    Args:
        dataset: Dataset to check.
        progress: Called after each shard, in their order.
        checks: Checks of its shards.
    """
    index, damage = _checked_index(dataset)
    for shard, more in zip(dataset.shards, checks(dataset, index), strict=True):
        damage += more
        progress(shard)
    return damage


def repair(dataset: Dataset, copy: Store) -> tuple[list[Damage], list[Damage]]:
    """Replaces damaged objects by those of a copy.

    Returns all damage, and the damage that remains. Objects of the copy are used only if they have the right sha256.
    Replaced objects are read again; the rest is read once.
    """
    if copy.address == dataset.address:
        raise UserError(f"{copy.address} is the dataset itself; give another copy to repair from")
    if next(iter(copy.list()), None) is None:
        raise UserError(f"{copy.address}: nothing is there to repair from; give the address of another copy")
    # The index first: a valid index is needed to name the samples of a damaged shard.
    index, damage = _checked_index(dataset)
    remaining = list(damage)
    if damage and _replace((dataset.store, INDEX_NAME), (copy, INDEX_NAME), dataset.manifest.index_sha256):
        index, remaining = _checked_index(dataset)
    for number, shard in enumerate(dataset.shards):
        shard_damage = damage_of_shard(dataset, number, index)
        damage += shard_damage
        places = dataset.shard_place(shard), shard_place(copy, shard.name)
        if shard_damage and _replace(*places, shard.sha256):
            shard_damage = damage_of_shard(dataset, number, index)
        remaining += shard_damage
    return damage, remaining


def _read_stable(store: Store, key: str, sha256: str) -> tuple[bytes, str]:
    """Reads an object until its bytes can be trusted.

    Trusted are bytes with the expected digest, else bytes that two readings agree on. Returns their sha256, too, which
    would take long to compute twice.
    """
    data = store.read(key)
    for _ in range(_READINGS):
        if hashlib.sha256(data).hexdigest() == sha256:
            return data, sha256
        again = store.read(key)
        if again == data:
            break
        data = again
    return data, hashlib.sha256(data).hexdigest()


def _replace(place: tuple[Store, str], copy: tuple[Store, str], sha256: str) -> bool:
    try:
        data, digest = _read_stable(*copy, sha256)
    except NotFound:
        return False
    if digest != sha256:
        return False
    store, key = place
    store.write(key, data)
    return True


def _checked_index(dataset: Dataset) -> tuple[Index | None, list[Damage]]:
    # Read from the store: the index that an open dataset has in memory tells nothing about it.
    try:
        data, _ = _read_stable(dataset.store, INDEX_NAME, dataset.manifest.index_sha256)
    except NotFound:
        return None, [Damage(INDEX_NAME, "", MISSING_INDEX)]
    try:
        return parse_index(dataset.manifest, data), []
    except ValueError as error:
        return None, [Damage(INDEX_NAME, "", DAMAGED_INDEX, str(error))]


def damage_of_shard(dataset: Dataset, number: int, index: Index | None) -> list[Damage]:
    """Reads one shard and returns its damage."""
    shard = dataset.shards[number]
    try:
        data, digest = _read_stable(*dataset.shard_place(shard), shard.sha256)
    except NotFound:
        return [Damage(shard.name, "", MISSING_SHARD)]
    # The digest of another shard: report the swap instead of every sample.
    if digest != shard.sha256:
        for candidate in dataset.shards:
            if candidate.sha256 == digest:
                return [Damage(shard.name, "", SWAPPED_SHARD, f"it is {candidate.name}")]
    # Name the samples if possible, else the shard as a whole.
    if index is not None and (damage := _damage_of_samples(data, shard, index, index.samples_of(number))):
        return damage
    if digest == shard.sha256 and len(data) == shard.bytes:
        return []
    return [Damage(shard.name, "", _kind_from_size(len(data), shard.bytes))]


def _damage_of_samples(data: bytes, shard: Shard, index: Index, samples: range) -> list[Damage]:
    """Compares a shard's bytes with these samples of the index."""
    view = memoryview(data)
    damaged = [member for sample in samples if (member := _damaged_member(view, sample, index)) is not None]
    if not damaged:
        return []
    # Look for all members in the shard, wherever they are: some may have moved, or all may be those of another shard.
    offsets = {name: at for at, name in _headers(data)}
    names = {f"{index.key_of(sample)}.{member.extension}" for sample in samples for member in index.members_of(sample)}
    if offsets and not names & offsets.keys():
        return [Damage(shard.name, "", STALE_SHARD)]
    return [Damage(shard.name, member.key, _kind_from_offsets(member, offsets)) for member in damaged]


def _kind_from_size(size: int, packed_size: int) -> str:
    """Returns the damage of a shard whose samples are intact."""
    if size < packed_size:
        return CUT_SHARD
    return LONG_SHARD if size > packed_size else DAMAGED_PADDING


def _headers(data: bytes) -> Iterator[tuple[int, str]]:
    """Yields (offset, member's name) of every valid header."""
    # The magic of a ustar header begins at its byte 257.
    magic = 257
    position = data.find(b"ustar", magic)
    while position >= 0:
        at = position - magic
        name = member_name(data[at : at + BLOCK_BYTES])
        if name is not None:
            yield at, name
        position = data.find(b"ustar", position + 1)


def _damaged_member(data: memoryview, sample: int, index: Index) -> _DamagedMember | None:
    """Returns the first damaged member of a sample, or None."""
    key = index.key_of(sample)
    for member in index.members_of(sample):
        at = member.offset - BLOCK_BYTES
        name = f"{key}.{member.extension}"
        # Payloads are not copied: this runs over every byte of a dataset.
        header, payload = bytes(data[at : member.offset]), data[member.offset : member.offset + member.size]
        kind = check_member(header, payload, name=name, size=member.size, crc32=member.crc32)
        if kind is not None:
            return _DamagedMember(key, name, at, kind)
    return None


def _kind_from_offsets(member: _DamagedMember, offsets: Mapping[str, int]) -> str:
    """Refines a member's damage by the shard's other headers."""
    if member.name in offsets:
        return member.kind if offsets[member.name] == member.at else MOVED_MEMBER
    return MISSING_MEMBER if member.kind == WRONG_MEMBER else member.kind
