"""Every byte of a dataset checked again, and damage named sample by sample; repair from another copy.

    damage = verify(Dataset.open("s3://bucket/datasets/places2-train"))      # [] when it is sound
    damage, left = repair(dataset, open_store("s3://backup/datasets/places2-train"))

A shard whose sha256 holds is sound without a further look. One whose does not is taken apart: which samples suffered,
and whether by a cut, a hole of zeros, a flipped byte, a member taken out, or because another shard stands in its
place. Bytes may be spoilt on the way, too: only what two readings give alike is called damage. Not covered: pictures
that cannot be decoded although they are as packed; the manifest itself, whose digest is checked whenever a dataset is
opened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping

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
from trainplane.data.manifest import Dataset, Shard, index_of
from trainplane.errors import UserError
from trainplane.storage import NotFound, Store

_READINGS = 8  # of an object whose bytes differ from reading to reading


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
    found = verify(dataset)
    sound = {shard.name: shard.sha256 for shard in dataset.shards}
    sound[INDEX_NAME] = dataset.manifest.index_sha256
    replaced = [
        name for name in dict.fromkeys(damage.shard for damage in found) if _replace(dataset, copy, name, sound)
    ]
    # Without a sound index the samples of a damaged shard could not be named; with the new one they can.
    again = {damage.shard for damage in found} if INDEX_NAME in replaced else set(replaced)
    index, left = _checked_index(dataset)
    left += [damage for damage in found if damage.shard not in again and damage.shard != INDEX_NAME]
    for number, shard in enumerate(dataset.shards):
        if shard.name in again:
            left += _damage_of(dataset, number, index)
    return found, left


def _settled(store: Store, key: str, sha256: str) -> bytes:
    """An object's bytes: those of this digest where one reading has it, else what two readings gave alike."""
    data = store.read(key)
    for _ in range(_READINGS):
        if hashlib.sha256(data).hexdigest() == sha256:
            break
        again = store.read(key)
        if again == data:
            break
        data = again
    return data


def _replace(dataset: Dataset, copy: Store, name: str, sound: Mapping[str, str]) -> bool:
    try:
        data = _settled(copy, name, sound[name])
    except NotFound:
        return False
    if hashlib.sha256(data).hexdigest() != sound[name]:
        return False
    dataset.store.write(name, data)
    return True


def _checked_index(dataset: Dataset) -> tuple[Index | None, list[Damage]]:
    # Read afresh: what an open dataset holds in memory says nothing of the store.
    try:
        data = _settled(dataset.store, INDEX_NAME, dataset.manifest.index_sha256)
    except NotFound:
        return None, [Damage(INDEX_NAME, "", MISSING_INDEX)]
    try:
        return index_of(dataset.manifest, data), []
    except ValueError as error:
        return None, [Damage(INDEX_NAME, "", DAMAGED_INDEX, str(error))]


def _damage_of(dataset: Dataset, number: int, index: Index | None) -> list[Damage]:
    shard = dataset.shards[number]
    try:
        data = _settled(dataset.store, shard.name, shard.sha256)
    except NotFound:
        return [Damage(shard.name, "", MISSING_SHARD)]
    digest = hashlib.sha256(data).hexdigest()
    if digest == shard.sha256:
        return []
    for other in dataset.shards:
        if other.sha256 == digest:
            return [Damage(shard.name, "", SWAPPED_SHARD, f"it is {other.name}")]
    whole = _kind_of_whole(len(data), shard.bytes)
    if index is None:
        return [Damage(shard.name, "", whole)]
    where = {name: at for at, name in _headers(data)}
    samples = index.samples_of(number)
    names = {f"{index.key_of(sample)}.{member.extension}" for sample in samples for member in index.members_of(sample)}
    if where and not names & where.keys():
        return [Damage(shard.name, "", STALE_SHARD)]
    judged = ((index.key_of(sample), _judge_sample(data, sample, index, where)) for sample in samples)
    found = [Damage(shard.name, key, kind) for key, kind in judged if kind is not None]
    return found or [Damage(shard.name, "", whole)]


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


def _judge_sample(data: bytes, sample: int, index: Index, where: Mapping[str, int]) -> str | None:
    """The kind of the first damaged member of a sample, None when all are as packed."""
    for member in index.members_of(sample):
        at = member.offset - BLOCK_BYTES
        name = f"{index.key_of(sample)}.{member.extension}"
        header, payload = data[at : member.offset], data[member.offset : member.offset + member.size]
        kind = judge_member(header, payload, name=name, size=member.size, crc32=member.crc32)
        if kind is not None:
            return _kind_from_surroundings(kind, name, at, where)
    return None


def _kind_from_surroundings(kind: str, name: str, at: int, where: Mapping[str, int]) -> str:
    """What the rest of the shard says about a member that is not sound at `at`."""
    if name in where:
        return kind if where[name] == at else MOVED_MEMBER
    return MISSING_MEMBER if kind == WRONG_MEMBER else kind
