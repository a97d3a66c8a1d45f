"""Destination of a packing: existing dataset, stored shards, final manifest.

Beside each shard stands a note, `packing.shard-000000.json`: the listing's entries that the shard was made of, and its
entries of manifest and index. After a kill the next packing trusts a note if the listing up to the end of that shard is
the same. The manifest is written last; then the notes are removed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from dataclasses import replace as with_fields
from pathlib import Path
from typing import Any

from trainplane.config.canonical import canonical_json
from trainplane.data.index import INDEX_NAME, Member, Row
from trainplane.data.manifest import MANIFEST_NAME, Dataset, Manifest, SkippedFile
from trainplane.data.pack.lease import PREFIX, Fence, PackLease, is_note
from trainplane.data.pack.shard_builder import BuiltShard
from trainplane.data.pack.sharding import ShardPlan
from trainplane.data.shard import Shard, is_shard
from trainplane.errors import UserError
from trainplane.storage import NoBucket, NotFound, StorageError, Store
from trainplane.storage.folder import FolderStore

log = logging.getLogger(__name__)

_NOTE = f"{PREFIX}shard-"
_NOTE_KEY = re.compile(rf"{re.escape(_NOTE)}([0-9]{{6,}})\.json")


@dataclass(frozen=True)
class ListingRange:
    """Entries `start` … `stop` - 1 of a listing."""

    start: int
    stop: int
    before: str  # digest of the listing up to `start`
    after: str  # digest of the listing up to `stop`

    def starts_at(self, position: int, digest: str) -> bool:
        """Tells if the range starts at this position."""
        return (self.start, self.before) == (position, digest)


@dataclass(frozen=True)
class PackedRange:
    """Result of a range of entries."""

    shard: Shard | None  # None where every entry was skipped
    rows: tuple[Row, ...]
    skipped: tuple[SkippedFile, ...]


@dataclass(frozen=True)
class ShardWriter:
    """Writes shards to a destination; pickles for other processes."""

    store: Store
    existing: Manifest | None  # of the dataset that is already there
    may_replace: bool  # another dataset there
    options_digest: str  # of every option that decides the bytes of shards
    fence: Fence | None = None  # once the lease is acquired

    def write(self, plan: ShardPlan, entries: ListingRange, built: BuiltShard) -> PackedRange:
        """Stores a shard and the note about it."""
        # Nothing is written where the existing dataset has the same shard.
        shard = built.shard
        packed = PackedRange(shard, built.rows, plan.skipped)
        existing = self._existing_shards().get(shard.name)
        if self.existing is not None and existing != shard:
            self.remove_existing(f"{shard.name} would differ")
        if existing != shard or self.store.size(shard.name) != shard.bytes:
            # The note of another packing may not stand beside this shard, not even for a moment.
            self.check()
            self.store.delete(_note_key(plan.number))
            self.put(shard.name, built.data)
            self.put(_note_key(plan.number), _note(self.options_digest, entries, shard, packed))
        return packed

    def put(self, key: str, data: bytes) -> None:
        """Stores an object, never over one of a successor.

        A process that was suspended before or during the request finds the key taken when it goes on.
        """
        if self.store.create(key, data):
            return
        # Something older is there, unless another process has taken over.
        self.check()
        self.store.delete(key)
        if not self.store.create(key, data) and self.store.read(key) != data:
            raise _packed_meanwhile(self.store)

    def check(self) -> None:
        """Raises `UserError` where another process has taken over."""
        if self.fence is not None:
            self.fence.check()

    def remove_existing(self, difference: str) -> None:
        """Removes the existing dataset if that is allowed."""
        # The manifest goes first, so that no reader sees a mixture of two datasets.
        assert self.existing is not None
        if not self.may_replace:
            raise UserError(
                f"{self.store.address}: another dataset is there ({self.existing.num_samples} samples, digest "
                f"{self.existing.digest[:12]}; {difference}); choose another destination, or allow replacing it "
                "(--replace)"
            )
        self.check()
        self.store.delete(MANIFEST_NAME)

    def _existing_shards(self) -> dict[str, Shard]:
        return {} if self.existing is None else {shard.name: shard for shard in self.existing.shards}


class Destination:
    """Destination in the process that leads the packing."""

    def __init__(self, store: Store, *, replace: bool, options: Mapping[str, Any]) -> None:
        _refuse_a_file(store)
        self._store = store
        self._options = options
        self._lease = PackLease(store)
        self._is_acquired = False
        self._first_manifest = self._manifest_bytes()
        options_digest = hashlib.sha256(canonical_json(options)).hexdigest()
        self.writer = ShardWriter(store, self._existing(replace), replace, options_digest)

    def __enter__(self) -> Destination:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        # A packing that may not replace the existing dataset leaves nothing to resume.
        is_refused = self.writer.existing is not None and not self.writer.may_replace
        is_finished = kind is None or is_refused
        # A process that was killed as it made the first lease left a file, and no lease to tell.
        if is_finished and self._is_acquired and isinstance(self._store, FolderStore) and not self._lease.is_lost:
            self._clear_unfinished()
        self._lease.release(finished=is_finished)

    def acquire(self) -> None:
        """Excludes other packings; removes what a killed one left."""
        self._lease.check()
        if self._is_acquired:
            return
        self._lease.acquire()
        self._is_acquired = True
        self.writer = with_fields(self.writer, fence=self._lease.fence)
        # Another process may have packed between the first look and the lease.
        if self._manifest_bytes() != self._first_manifest:
            self._lease.release(finished=True)
            raise _packed_meanwhile(self._store)
        # A damaged manifest that may be replaced.
        if self._first_manifest is not None and self.writer.existing is None:
            self._store.delete(MANIFEST_NAME)
        if self._lease.follows_unfinished:
            self._clear_unfinished()

    def _clear_unfinished(self) -> None:
        try:
            self._store.clear_unfinished(_is_ours)
        except StorageError as error:
            # Packing works without it: listing uploads needs a permission of its own.
            log.warning("%s; unfinished uploads of a killed packing remain there", error)

    def stored_ranges(self) -> dict[int, ListingRange]:
        """Shards' ranges that an unfinished packing stored, by number."""
        # Only those of a packing with the same options.
        ranges = {}
        for entry in self._store.list(_NOTE):
            if (match := _NOTE_KEY.fullmatch(entry.key)) and (note := self._read_note(int(match[1]))) is not None:
                ranges[int(match[1])] = note[0]
        return ranges

    def packed_range(self, number: int) -> PackedRange | None:
        """Returns the note about a shard that is there."""
        note = self._read_note(number)
        if note is None or note[1].shard is None or self._store.size(note[1].shard.name) != note[1].shard.bytes:
            return None
        return note[1]

    def _read_note(self, number: int) -> tuple[ListingRange, PackedRange] | None:
        try:
            content = json.loads(self._store.read(_note_key(number)))
            return _from_note(content) if content["recipe"] == self.writer.options_digest else None
        except (NotFound, ValueError, KeyError, TypeError):
            return None

    def commit(
        self, *, name: str, split: str, shards: Sequence[Shard], index: bytes, skipped: Sequence[SkippedFile]
    ) -> Dataset:
        """Stores index and manifest, which makes the dataset exist."""
        # Through JSON and back, so that tuples in the options compare equal to the lists they become.
        manifest = Manifest(
            name=name,
            split=split,
            shards=tuple(shards),
            index_bytes=len(index),
            index_sha256=hashlib.sha256(index).hexdigest(),
            skipped=tuple(skipped),
            packed=json.loads(canonical_json(self._options)),
        )
        existing = self.writer.existing
        if existing is not None:
            if _is_same_dataset(manifest, existing):
                log.info("%s: the same dataset is already there", self._store.address)
                # Notes beside a manifest: a packing was killed after its manifest. Taking the lease removes them.
                if any(is_note(entry.key) for entry in self._store.list(PREFIX)):
                    self.acquire()
                return Dataset(self._store, existing)
            if self.writer.may_replace:
                self.acquire()
            self.writer.remove_existing("name, split, options, skipped files or the number of shards would differ")
        self.acquire()
        for key in self._obsolete_shards({shard.name for shard in shards}):
            self.writer.check()
            self._store.delete(key)
        self.writer.put(INDEX_NAME, index)
        data = manifest.to_json()
        self.writer.check()
        # Only one process can create the manifest; the same bytes of another process are as good.
        if not self._store.create(MANIFEST_NAME, data) and self._store.read(MANIFEST_NAME) != data:
            raise _packed_meanwhile(self._store)
        return Dataset(self._store, manifest)

    def _manifest_bytes(self) -> bytes | None:
        try:
            return self._store.read(MANIFEST_NAME)
        except NotFound:
            return None
        except NoBucket as error:
            raise UserError(str(error)) from error

    def _existing(self, replace: bool) -> Manifest | None:
        if self._first_manifest is None:
            return None
        try:
            return Dataset.open(self._store).manifest
        except UserError:
            if not replace:
                raise
            return None

    def _obsolete_shards(self, names: set[str]) -> list[str]:
        # Returns shards that the new dataset does not have. They come from the replaced dataset or from an unfinished
        # packing; `names` are those of the new one.
        if self._lease.follows_unfinished:
            stored = {entry.key for entry in self._store.list("shard-") if is_shard(entry.key)}
        else:
            stored = {shard.name for shard in self.writer.existing.shards} if self.writer.existing else set()
        return sorted(stored - names)


def _refuse_a_file(store: Store) -> None:
    """Raises `UserError` where folder or parent is a file."""
    if not isinstance(store, FolderStore):
        return
    folder = Path(store.address)
    nearest = next((path for path in (folder, *folder.parents) if os.path.lexists(path)), folder)
    if os.path.exists(nearest) and not os.path.isdir(nearest):
        raise UserError(f"{folder}: nothing can be packed there, {nearest} is a file; give a folder")


def _is_ours(key: str) -> bool:
    return is_shard(key) or key in (INDEX_NAME, MANIFEST_NAME) or is_note(key)


def _packed_meanwhile(store: Store) -> UserError:
    return UserError(f"{store.address}: another process packed there at the same time; give each its own destination")


def _is_same_dataset(manifest: Manifest, existing: Manifest) -> bool:
    # Not the index: its bytes differ between releases of pyarrow, and its content follows from the shards.
    without_index = with_fields(existing, index_bytes=0, index_sha256="")
    return with_fields(manifest, index_bytes=0, index_sha256="") == without_index


def _note_key(number: int) -> str:
    return f"{_NOTE}{number:06d}.json"


def _note(options_digest: str, entries: ListingRange, shard: Shard, packed: PackedRange) -> bytes:
    rows = [[row.key, [[m.extension, m.offset, m.size, m.crc32] for m in row.members]] for row in packed.rows]
    return canonical_json(
        {
            "recipe": options_digest,
            "range": asdict(entries),
            "shard": asdict(shard),
            "skipped": [asdict(file) for file in packed.skipped],
            "rows": rows,
        }
    )


def _from_note(content: Mapping[str, Any]) -> tuple[ListingRange, PackedRange]:
    rows = tuple(Row(key, tuple(Member(*member) for member in members)) for key, members in content["rows"])
    skipped = tuple(SkippedFile(**file) for file in content["skipped"])
    return ListingRange(**content["range"]), PackedRange(Shard(**content["shard"]), rows, skipped)
