"""Where a dataset is packed to: what stands there already, the shards that an unfinished packing left, the end.

A packing leaves beside each shard it stores a note, `packing.shard-000000.json`: which entries of the listing the
shard came of, and what the manifest and the index will say of it. The packing that comes after a killed one believes
a note whose listing, up to and with that shard, is the same as its own. The manifest is written last; then the notes
go.
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
from trainplane.data.manifest import MANIFEST_NAME, Dataset, Manifest, Skipped
from trainplane.data.pack.lease import PREFIX, Claim, is_note
from trainplane.data.pack.sharding import Cut
from trainplane.data.shard import Shard, is_shard
from trainplane.data.shards import BuiltShard
from trainplane.errors import UserError
from trainplane.storage import NoBucket, NotFound, StorageError, Store
from trainplane.storage.folder import FolderStore

log = logging.getLogger(__name__)

_NOTE = f"{PREFIX}shard-"
_NOTE_KEY = re.compile(rf"{re.escape(_NOTE)}([0-9]{{6,}})\.json")


@dataclass(frozen=True)
class Range:
    """Entries `start` … `stop` - 1 of a listing; `before` and `after` are digests of it up to the two."""

    start: int
    stop: int
    before: str
    after: str

    def starts_at(self, at: int, digest: str) -> bool:
        return (self.start, self.before) == (at, digest)


@dataclass(frozen=True)
class Finished:
    """A shard that is stored: what the manifest and the index say of it, and what was left out of its range.

    Without a shard: a range in which everything was left out.
    """

    shard: Shard | None
    rows: tuple[Row, ...]
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True)
class Place:
    """A destination as the processes that make shards see it: picklable, and alike in all of them.

    recipe -- digest of every option that decides the bytes of shards
    """

    store: Store
    standing: Manifest | None
    replace: bool
    recipe: str

    def put(self, cut: Cut, where: Range, built: BuiltShard) -> Finished:
        """Store a shard, unless the standing dataset has the same one, and the note about it."""
        shard = built.shard
        finished = Finished(shard, built.rows, cut.skipped)
        was = self._standing_shards().get(shard.name)
        if self.standing is not None and was != shard:
            self.make_room(f"{shard.name} would differ")
        if was != shard or self.store.size(shard.name) != shard.bytes:
            # Another packing's note must not stand beside this one's shard, not even for a moment.
            self.store.delete(_note_key(cut.number))
            self.store.write(shard.name, built.data)
            self.store.write(_note_key(cut.number), _note(self.recipe, where, shard, finished))
        return finished

    def make_room(self, difference: str) -> None:
        """Take away the standing dataset, if that is allowed: the manifest first, so that no reader sees a mixture."""
        assert self.standing is not None
        if not self.replace:
            raise UserError(
                f"{self.store.address}: another dataset is there ({self.standing.num_samples} samples, digest "
                f"{self.standing.digest[:12]}; {difference}); choose another destination, or allow replacing it "
                "(--replace)"
            )
        self.store.delete(MANIFEST_NAME)

    def _standing_shards(self) -> dict[str, Shard]:
        return {} if self.standing is None else {shard.name: shard for shard in self.standing.shards}


class Destination:
    """The same as the one process sees it that leads the packing and ends the dataset."""

    def __init__(self, store: Store, *, replace: bool, options: Mapping[str, Any]) -> None:
        _refuse_a_file(store)
        self._store = store
        self._options = options
        self._claim = Claim(store)
        self._is_claimed = False
        self._found = self._manifest_bytes()
        recipe = hashlib.sha256(canonical_json(options)).hexdigest()
        self.place = Place(store, self._standing(replace), replace, recipe)

    def __enter__(self) -> Destination:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        # A packing that may not replace the dataset that stands there leaves nothing to go on with.
        refused = self.place.standing is not None and not self.place.replace
        self._claim.give_back(finished=kind is None or refused)

    def claim(self) -> None:
        """Before anything is stored: make sure that no other process packs here, and clear what a dead one left."""
        self._claim.check()
        if self._is_claimed:
            return
        self._claim.take()
        self._is_claimed = True
        if self._manifest_bytes() != self._found:
            raise _packed_meanwhile(self._store)
        if self._found is not None and self.place.standing is None:
            self._store.delete(MANIFEST_NAME)
        if self._claim.follows_unfinished:
            self._clear_unfinished()

    def _clear_unfinished(self) -> None:
        try:
            self._store.clear_unfinished(_is_ours)
        except StorageError as error:
            # Storing goes on without it: to see uploads is a right of its own.
            log.warning("%s; what a killed packing left of its uploads stays there", error)

    def notes(self) -> dict[int, Range]:
        """Ranges of the shards that an unfinished packing with the same options stored, by number of shard."""
        found = {}
        for entry in self._store.list(_NOTE):
            if (named := _NOTE_KEY.fullmatch(entry.key)) and (note := self._read_note(int(named[1]))) is not None:
                found[int(named[1])] = note[0]
        return found

    def finished(self, number: int) -> Finished | None:
        """What the note about a shard says, if the shard is there."""
        note = self._read_note(number)
        if note is None or note[1].shard is None or self._store.size(note[1].shard.name) != note[1].shard.bytes:
            return None
        return note[1]

    def _read_note(self, number: int) -> tuple[Range, Finished] | None:
        try:
            content = json.loads(self._store.read(_note_key(number)))
            return _from_note(content) if content["recipe"] == self.place.recipe else None
        except (NotFound, ValueError, KeyError, TypeError):
            return None

    def seal(
        self, *, name: str, split: str, shards: Sequence[Shard], index: bytes, skipped: Sequence[Skipped]
    ) -> Dataset:
        """Store the index and then the manifest; from here on there is a dataset."""
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
        standing = self.place.standing
        if standing is not None:
            if _same_but_for_the_index(manifest, standing):
                log.info("%s: the same dataset is already there", self._store.address)
                # Killed between its manifest and the end.
                if any(is_note(entry.key) for entry in self._store.list(PREFIX)):
                    self.claim()
                return Dataset(self._store, standing)
            self.place.make_room("name, split, options, skipped files or the number of shards would differ")
        self.claim()
        for left in self._left_over({shard.name for shard in shards}):
            self._store.delete(left)
        self._store.write(INDEX_NAME, index)
        data = manifest.to_json()
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

    def _standing(self, replace: bool) -> Manifest | None:
        if self._found is None:
            return None
        try:
            return Dataset.open(self._store).manifest
        except UserError:
            if not replace:
                raise
            return None

    def _left_over(self, wanted: set[str]) -> list[str]:
        """Shards of the dataset that is replaced, or of an unfinished packing, that the new dataset has not."""
        if self._claim.follows_unfinished:
            found = {entry.key for entry in self._store.list("shard-") if is_shard(entry.key)}
        else:
            found = {shard.name for shard in self.place.standing.shards} if self.place.standing else set()
        return sorted(found - wanted)


def _refuse_a_file(store: Store) -> None:
    """A `UserError` where a file stands in place of the folder, or of one above it."""
    if not isinstance(store, FolderStore):
        return
    folder = Path(store.address)
    nearest = next((place for place in (folder, *folder.parents) if os.path.lexists(place)), folder)
    if os.path.exists(nearest) and not os.path.isdir(nearest):
        raise UserError(f"{folder}: nothing can be packed there, {nearest} is a file; give a folder")


def _is_ours(key: str) -> bool:
    """PURE: whether a packing writes under this key."""
    return is_shard(key) or key in (INDEX_NAME, MANIFEST_NAME) or is_note(key)


def _packed_meanwhile(store: Store) -> UserError:
    return UserError(f"{store.address}: another process packed to this place meanwhile; give each its own destination")


def _same_but_for_the_index(one: Manifest, other: Manifest) -> bool:
    # The index's bytes differ between releases of pyarrow; what it says follows from the shards.
    return with_fields(one, index_bytes=0, index_sha256="") == with_fields(other, index_bytes=0, index_sha256="")


def _note_key(number: int) -> str:
    return f"{_NOTE}{number:06d}.json"


def _note(recipe: str, where: Range, shard: Shard, finished: Finished) -> bytes:
    rows = [[row.key, [[m.extension, m.offset, m.size, m.crc32] for m in row.members]] for row in finished.rows]
    return canonical_json(
        {
            "recipe": recipe,
            "range": asdict(where),
            "shard": asdict(shard),
            "skipped": [asdict(one) for one in finished.skipped],
            "rows": rows,
        }
    )


def _from_note(content: Mapping[str, Any]) -> tuple[Range, Finished]:
    rows = tuple(Row(key, tuple(Member(*member) for member in members)) for key, members in content["rows"])
    skipped = tuple(Skipped(**one) for one in content["skipped"])
    return Range(**content["range"]), Finished(Shard(**content["shard"]), rows, skipped)
