"""Every byte of a dataset checked again, and damage named sample by sample; repair from another copy.

    damage = verify(Dataset.open("s3://bucket/datasets/places2-train"))      # [] when it is sound
    damage, left = repair(dataset, open_store("s3://backup/datasets/places2-train"))

A shard is sound when its sha256, its length and all its members hold: manifest and index may agree with each other and
yet say of a shard what is not so, and readers go by the index. One that is not sound is taken apart: which samples
suffered, and whether by a cut, a hole of zeros, a flipped byte, a member taken out, or because another shard stands in
its place. Bytes may be spoilt on the way, too: only what two readings give alike is called damage. Not covered:
pictures that cannot be decoded although they are as packed; the manifest itself, whose digest is checked whenever a
dataset is opened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

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
    judge_member,
    member_name,
)
from trainplane.data.index import INDEX_NAME, Index
from trainplane.data.manifest import Dataset, index_of
from trainplane.data.shard import Shard
from trainplane.errors import UserError
from trainplane.storage import NotFound, Store

_READINGS = 8  # of an object whose bytes differ from reading to reading


@dataclass(frozen=True)
class _Unsound:
    """The member `name` of the sample `key`, whose header should stand at byte `at` of its shard."""

    key: str
    name: str
    at: int
    kind: str


def verify(dataset: Dataset, *, progress: Callable[[Shard], None] = lambda shard: None) -> list[Damage]:
    """All damage found in `dataset`, shard by shard; empty when every byte is as packed.

    One shard at a time is held in memory; `progress` is called after each. Without a sound index damaged shards are
    named but not their samples.
    """
    index, found = _checked_index(dataset)
    for number, shard in enumerate(dataset.shards):
        found += _damage_of(dataset, number, index)
        progress(shard)
    return found


def repair(dataset: Dataset, copy: Store) -> tuple[list[Damage], list[Damage]]:
    """Replace what is damaged by what `copy` holds, where that has the right sha256; damage found, damage left.

    What was replaced is read again; the rest of the dataset is read once.
    """
    if copy.address == dataset.address:
        raise UserError(f"{copy.address} is the dataset itself; give another copy to repair from")
    if next(iter(copy.list()), None) is None:
        raise UserError(f"{copy.address}: nothing is there to repair from; give the address of another copy")
    # The index first: with a sound one the samples of a damaged shard can be named.
    index, found = _checked_index(dataset)
    left = list(found)
    if found and _replace(dataset, copy, INDEX_NAME, dataset.manifest.index_sha256):
        index, left = _checked_index(dataset)
    for number, shard in enumerate(dataset.shards):
        damage = _damage_of(dataset, number, index)
        found += damage
        if damage and _replace(dataset, copy, shard.name, shard.sha256):
            damage = _damage_of(dataset, number, index)
        left += damage
    return found, left


def _settled(store: Store, key: str, sha256: str) -> tuple[bytes, str]:
    """An object's bytes, those of this digest where one reading has it, else what two readings gave alike; and their
    sha256, which takes too long to be taken twice."""
    data = store.read(key)
    for _ in range(_READINGS):
        if hashlib.sha256(data).hexdigest() == sha256:
            return data, sha256
        again = store.read(key)
        if again == data:
            break
        data = again
    return data, hashlib.sha256(data).hexdigest()


def _replace(dataset: Dataset, copy: Store, name: str, sha256: str) -> bool:
    try:
        data, digest = _settled(copy, name, sha256)
    except NotFound:
        return False
    if digest != sha256:
        return False
    dataset.store.write(name, data)
    return True


def _checked_index(dataset: Dataset) -> tuple[Index | None, list[Damage]]:
    # Read afresh: what an open dataset holds in memory says nothing of the store.
    try:
        data, _ = _settled(dataset.store, INDEX_NAME, dataset.manifest.index_sha256)
    except NotFound:
        return None, [Damage(INDEX_NAME, "", MISSING_INDEX)]
    try:
        return index_of(dataset.manifest, data), []
    except ValueError as error:
        return None, [Damage(INDEX_NAME, "", DAMAGED_INDEX, str(error))]


def _damage_of(dataset: Dataset, number: int, index: Index | None) -> list[Damage]:
    shard = dataset.shards[number]
    try:
        data, digest = _settled(dataset.store, shard.name, shard.sha256)
    except NotFound:
        return [Damage(shard.name, "", MISSING_SHARD)]
    if digest != shard.sha256:
        for other in dataset.shards:
            if other.sha256 == digest:
                return [Damage(shard.name, "", SWAPPED_SHARD, f"it is {other.name}")]
    if index is not None and (found := _damage_of_samples(data, shard, index, index.samples_of(number))):
        return found
    if digest == shard.sha256 and len(data) == shard.bytes:
        return []
    return [Damage(shard.name, "", _kind_of_whole(len(data), shard.bytes))]


def _damage_of_samples(data: bytes, shard: Shard, index: Index, samples: range) -> list[Damage]:
    """What the bytes that stand for a shard have of these samples otherwise than the index says."""
    view = memoryview(data)
    unsound = [one for sample in samples if (one := _unsound_member(view, sample, index)) is not None]
    if not unsound:
        return []
    where = {name: at for at, name in _headers(data)}
    names = {f"{index.key_of(sample)}.{member.extension}" for sample in samples for member in index.members_of(sample)}
    if where and not names & where.keys():
        return [Damage(shard.name, "", STALE_SHARD)]
    return [Damage(shard.name, one.key, _kind_from_surroundings(one.kind, one.name, one.at, where)) for one in unsound]


def _kind_of_whole(size: int, packed_size: int) -> str:
    """What is wrong with a shard none of whose samples suffered."""
    if size < packed_size:
        return CUT_SHARD
    return LONG_SHARD if size > packed_size else DAMAGED_PADDING


def _headers(data: bytes) -> Iterator[tuple[int, str]]:
    """(offset, member's name) of every sound header, wherever it stands."""
    # The magic of a ustar header is its 257th byte and on.
    magic = 257
    found = data.find(b"ustar", magic)
    while found >= 0:
        at = found - magic
        name = member_name(data[at : at + BLOCK_BYTES])
        if name is not None:
            yield at, name
        found = data.find(b"ustar", found + 1)


def _unsound_member(data: memoryview, sample: int, index: Index) -> _Unsound | None:
    """The first member of a sample that is not as packed, None when all are."""
    key = index.key_of(sample)
    for member in index.members_of(sample):
        at = member.offset - BLOCK_BYTES
        name = f"{key}.{member.extension}"
        # Payloads are not copied: this is done to every byte of a dataset.
        header, payload = bytes(data[at : member.offset]), data[member.offset : member.offset + member.size]
        kind = judge_member(header, payload, name=name, size=member.size, crc32=member.crc32)
        if kind is not None:
            return _Unsound(key, name, at, kind)
    return None


def _kind_from_surroundings(kind: str, name: str, at: int, where: Mapping[str, int]) -> str:
    """What the rest of the shard says about a member that is not sound at `at`."""
    if name in where:
        return kind if where[name] == at else MOVED_MEMBER
    return MISSING_MEMBER if kind == WRONG_MEMBER else kind
