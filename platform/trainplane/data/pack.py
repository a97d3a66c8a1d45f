"""Pictures to shards: plain WebDataset tars, the index, and last of all the manifest.

    pack(pictures, "s3://bucket/datasets/mine", name="mine", split="train", how={"layout": "folder"})

Same pictures in the same order and same options give the same bytes. One shard at a time is held in memory and
stored whole; nothing is trusted before the manifest is there, so a packing that was killed is simply run again.
`build_shard` makes one shard from values alone, a `Destination` stores shards and ends the dataset: a packing spread
over many processes calls the two itself. Not covered: finding, decoding, checking or re-encoding pictures: the
caller does that.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import re
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as with_fields
from typing import Any
from urllib.parse import quote_from_bytes

import numpy as np
import webdataset

from trainplane.config import canonical_json
from trainplane.data.damage import BLOCK_BYTES, padded
from trainplane.data.index import INDEX_NAME, IndexWriter, Member, Row
from trainplane.data.manifest import MANIFEST_NAME, Dataset, Manifest, Shard, Skipped, shard_name
from trainplane.errors import UserError
from trainplane.storage import Store, open_store

log = logging.getLogger(__name__)

DEFAULT_SHARD_BYTES = 64 * 1024 * 1024

_EXTENSION = re.compile(r"[a-z0-9]{1,8}")
_KEY_TEXT = 40  # characters of the path that a key keeps for people
_KEY_HASH = 16  # hexadecimal digits that make it unique


@dataclass(frozen=True)
class PackItem:
    """One picture as it shall be stored. `extra` goes into its JSON beside the path: numbers, texts, lists."""

    source: str
    data: bytes
    extension: str
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class BuiltShard:
    """A shard, what the manifest says of it, and its rows of the index."""

    shard: Shard
    rows: tuple[Row, ...]
    data: bytes


def pack(
    pictures: Iterable[PackItem],
    dest: str | Store,
    *,
    name: str,
    split: str,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    skipped: Sequence[Skipped] = (),
    how: Mapping[str, Any],
    replace: bool = False,
) -> Dataset:
    """Pack `pictures` in the order given into a dataset at `dest`.

    shard_bytes -- a shard is closed before the sample that would make it larger
    skipped     -- files left out; read after `pictures` is exhausted, so a generator may add to it as it goes
    how         -- the caller's options, JSON values; they are part of the digest
    replace     -- another dataset at `dest` may be replaced; without it that is refused

    Where the same dataset stands already nothing is written, shards that are missing apart. An item that comes
    twice, no item at all, or another dataset at `dest` is a `UserError`.
    """
    store = open_store(dest) if isinstance(dest, str) else dest
    options = {"shard_bytes": shard_bytes, **how}
    _refuse_what_no_manifest_can_hold(name, split, options)
    place = Destination(store, replace=replace)
    index = IndexWriter()
    shards: list[Shard] = []
    hashes = array("Q")
    for number, items in enumerate(_shardfuls(pictures, shard_bytes)):
        built = build_shard(number, items)
        place.put(built)
        index.add(built.shard.name, built.rows)
        shards.append(built.shard)
        hashes.extend(int(row.key[-_KEY_HASH:], 16) for row in built.rows)
    if not shards:
        raise UserError(f"{store.address}: nothing to pack, {len(skipped)} files were skipped; give pictures")
    _refuse_twins(hashes)
    return place.seal(name=name, split=split, shards=shards, index=index.finish(), skipped=skipped, packed=options)


def build_shard(number: int, items: Sequence[PackItem]) -> BuiltShard:
    """PURE: the shard of these items. Tar members are `KEY.EXT` and `KEY.json`, alphabetically."""
    file = io.BytesIO()
    rows = []
    # webdataset's writer makes the ustar headers (no pax, whose extra headers cost 2 KiB a sample) and takes what
    # would differ between runs and machines as arguments: time, user, group.
    writer = webdataset.TarWriter(file, user="", group="", mtime=0, encoder=False, compress=False)
    at = 0
    for item in items:
        members = sample_of(item)
        key = members.pop("__key__")
        located = []
        for extension, data in sorted(members.items()):
            located.append(Member(extension, at + BLOCK_BYTES, len(data), zlib.crc32(data)))
            at += BLOCK_BYTES + padded(len(data))
        writer.write({"__key__": key, **members})
        rows.append(Row(key, tuple(located)))
    writer.close()
    data = file.getvalue()
    shard = Shard(shard_name(number), len(data), len(rows), hashlib.sha256(data).hexdigest())
    return BuiltShard(shard, tuple(rows), data)


def sample_of(item: PackItem) -> dict[str, Any]:
    """PURE: the members of one sample by extension, and `__key__`."""
    if not _EXTENSION.fullmatch(item.extension) or item.extension == "json":
        raise UserError(f"{item.source!r}: {item.extension!r} is no picture's extension; need one such as 'jpg'")
    if "path" in item.extra:
        raise ValueError("extra['path'] is taken by the original path")
    described = canonical_json({**item.extra, "path": percent_encoded(item.source)})
    return {"__key__": key_of(item.source), item.extension: item.data, "json": described}


def key_of(source: str) -> str:
    """PURE: the sample key of an original path: its end, made safe for tars and shells, and a hash of all of it."""
    text = re.sub(r"[^A-Za-z0-9]+", "_", os.path.splitext(source)[0])[-_KEY_TEXT:].strip("_")
    return f"{text or 'sample'}-{hashlib.sha256(_bytes_of(source)).hexdigest()[:_KEY_HASH]}"


def percent_encoded(path: str) -> str:
    """PURE: a path as it is written into JSON: the bytes of any file name survive, whatever their encoding."""
    return quote_from_bytes(_bytes_of(path), safe="/")


def _bytes_of(path: str) -> bytes:
    # What Python makes of a file name that is no UTF-8 turns back into the bytes on disk, in any locale.
    return path.encode("utf-8", "surrogateescape")


def _shardfuls(pictures: Iterable[PackItem], shard_bytes: int) -> Iterator[list[PackItem]]:
    held: list[PackItem] = []
    size = 0
    for item in pictures:
        members = sample_of(item)
        taken = sum(BLOCK_BYTES + padded(len(data)) for name, data in members.items() if name != "__key__")
        if held and size + taken > shard_bytes:
            yield held
            held, size = [], 0
        held.append(item)
        size += taken
    if held:
        yield held


def _refuse_what_no_manifest_can_hold(name: str, split: str, options: Mapping[str, Any]) -> None:
    # Before hours of packing rather than after.
    Manifest(name, split, (), 0, "", (), options)
    if options["shard_bytes"] <= 0:
        raise UserError(f"shard_bytes={options['shard_bytes']}: need a positive number of bytes")
    try:
        canonical_json(options)
    except (TypeError, ValueError) as error:
        raise UserError(f"how the dataset is packed cannot be recorded as JSON ({error}); give plain values") from error


def _refuse_twins(hashes: array[int]) -> None:
    values, counts = np.unique(np.frombuffer(hashes, dtype=np.uint64), return_counts=True)
    if (twins := values[counts > 1]).size:
        raise UserError(
            f"{twins.size} pictures were given twice (the first has a key ending in -{int(twins[0]):0{_KEY_HASH}x}); "
            "give each path once"
        )


class Destination:
    """Where a dataset is packed to, and the dataset that stands there already, if any."""

    def __init__(self, store: Store, *, replace: bool) -> None:
        self._store = store
        self._replace = replace
        self._standing = self._find()
        # Shards of the standing dataset that the new one has not written over yet.
        self._left_over = {shard.name: shard for shard in self._standing.shards} if self._standing else {}

    def put(self, built: BuiltShard) -> None:
        """Store a shard unless the standing dataset has the same one."""
        shard = built.shard
        if self._left_over.pop(shard.name, None) != shard and self._standing is not None:
            self._make_room(f"{shard.name} would differ")
        if self._standing is None or self._store.size(shard.name) != shard.bytes:
            self._store.write(shard.name, built.data)

    def seal(
        self,
        *,
        name: str,
        split: str,
        shards: Sequence[Shard],
        index: bytes,
        skipped: Sequence[Skipped],
        packed: Mapping[str, Any],
    ) -> Dataset:
        """Store the index and then the manifest; from here on there is a dataset."""
        # Through JSON and back, so that tuples in `packed` compare equal to the lists they become.
        manifest = Manifest(
            name=name,
            split=split,
            shards=tuple(shards),
            index_bytes=len(index),
            index_sha256=hashlib.sha256(index).hexdigest(),
            skipped=tuple(skipped),
            packed=json.loads(canonical_json(packed)),
        )
        if self._standing is not None:
            if _same_but_for_the_index(manifest, self._standing):
                log.info("%s: the same dataset is already there", self._store.address)
                return Dataset(self._store, self._standing)
            self._make_room("name, split, options, skipped files or the number of shards would differ")
        for name_left in self._left_over:
            self._store.delete(name_left)
        self._store.write(INDEX_NAME, index)
        data = manifest.to_json()
        if not self._store.create(MANIFEST_NAME, data) and self._store.read(MANIFEST_NAME) != data:
            raise UserError(
                f"{self._store.address}: another process packed other pictures to this place meanwhile; "
                "give each its own destination"
            )
        return Dataset(self._store, manifest)

    def _find(self) -> Manifest | None:
        if self._store.size(MANIFEST_NAME) is None:
            return None
        try:
            return Dataset.open(self._store).manifest
        except UserError:
            if not self._replace:
                raise
            self._store.delete(MANIFEST_NAME)
            return None

    def _make_room(self, difference: str) -> None:
        """Take away the standing dataset, if that is allowed: the manifest first, so that no reader sees a mixture."""
        assert self._standing is not None
        if not self._replace:
            raise UserError(
                f"{self._store.address}: another dataset is there ({self._standing.num_samples} samples, digest "
                f"{self._standing.digest[:12]}; {difference}); choose another destination, or allow replacing it "
                "(--replace)"
            )
        self._store.delete(MANIFEST_NAME)
        self._standing = None


def _same_but_for_the_index(one: Manifest, other: Manifest) -> bool:
    # The index's bytes differ between releases of pyarrow; what it says follows from the shards.
    return with_fields(one, index_bytes=0, index_sha256="") == with_fields(other, index_bytes=0, index_sha256="")
