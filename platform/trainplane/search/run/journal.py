"""The journal of a search: what it was told and what it decided, in order, never changed.

    with open_journal(store, "searches/demo-0123456789ab") as journal:
        state = fold(journal.records)                # all that there was
        journal.append([{"k": "tick", …}])           # on the way to the disk
        journal.append([{"k": "go", …}], durable=True)   # on it, or in the object store, when this returns

A line is a checksum, a space and one JSON object that has its number in the journal as `n`. In a folder the journal is
one file that is only appended to; in an object store every durable append is an object of its own, made unless it
exists, so that of two processes that carry on one search the second one is stopped. A kill in the middle of an append
leaves a torn last line, which is cut off; damage before it is told and never passed over. What records mean: `state`.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainplane.config.canonical import canonical_json
from trainplane.errors import RunFailed, UserError
from trainplane.locks import try_lock
from trainplane.storage import Store
from trainplane.storage.folder import FolderStore

JournalRecord = dict[str, Any]
FILE = "journal.jsonl"
SEGMENTS = "journal/"
# Records that nothing depends on may be so old before an object store has them.
HELD_BACK_S = 10.0


class Journal(ABC):
    """Records in order. `records`: those that were there when it was opened."""

    def __init__(self, records: list[JournalRecord]) -> None:
        self.records = records
        self._next = len(records)

    def append(self, records: Sequence[Mapping[str, Any]], *, durable: bool = False) -> None:
        """Write them behind the others; `durable`: and wait until they, and all before them, outlive this machine."""
        lines = []
        for record in records:
            lines.append(encode_line({**record, "n": self._next, "t": round(time.time(), 3)}))
            self._next += 1
        self._write(b"".join(lines), durable)

    @abstractmethod
    def _write(self, data: bytes, durable: bool) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """Write what was held back."""


@contextmanager
def open_journal(store: Store, folder: str) -> Iterator[Journal]:
    """The journal in `folder` of `store`, for this process alone. Raises `RunFailed` where it is damaged."""
    journal: Journal
    if isinstance(store, FolderStore):
        journal = _FileJournal(Path(store.address) / folder / FILE)
    else:
        journal = _SegmentJournal(store.child(folder))
    try:
        yield journal
    finally:
        journal.close()


def read_journal(store: Store, folder: str) -> list[JournalRecord]:
    """The records, while another process may be writing; none where there is no journal."""
    if isinstance(store, FolderStore):
        path = Path(store.address) / folder / FILE
        return parse_lines(path.read_bytes(), str(path))[0] if path.exists() else []
    place = store.child(folder)
    data = [place.read(entry.key) for entry in place.list(SEGMENTS)]
    return parse_lines(b"".join(data), f"{place.address}/{SEGMENTS}")[0]


def encode_line(record: Mapping[str, Any]) -> bytes:
    """One line, checksum first. Numbers that are not finite have no place in JSON: say them otherwise."""
    body = canonical_json(record)
    return b"%08x %s\n" % (zlib.crc32(body), body)


def parse_lines(data: bytes, where: str, first: int = 0) -> tuple[list[JournalRecord], int]:
    """(records, bytes that they take): all good lines; what a torn write left at the end is no part of them.

    Raises `RunFailed` where a good line follows a bad one: that is no torn end, and decisions are missing.
    """
    records: list[JournalRecord] = []
    taken = 0
    lines = data.split(b"\n")
    for index, line in enumerate(lines[:-1]):
        record = _record_of(line, first + len(records))
        if record is None:
            if any(_record_of(later, None) is not None for later in lines[index + 1 :]):
                raise RunFailed(
                    f"journal {where} is damaged at record {len(records)}, and others follow it; restore the file from "
                    "a backup, or move its folder away and start the search anew"
                )
            break
        records.append(record)
        taken += len(line) + 1
    return records, taken


def _record_of(line: bytes, number: int | None) -> JournalRecord | None:
    """The record in a line, if it is one; `number`: which one it must be."""
    checksum, _, body = line.partition(b" ")
    try:
        if len(checksum) != 8 or int(checksum, 16) != zlib.crc32(body):
            return None
        record = json.loads(body)
    except ValueError:
        return None
    return record if isinstance(record, dict) and number in (None, record.get("n")) else None


class MemoryJournal(Journal):
    """A journal in memory: for simulations, and for whoever only looks."""

    def _write(self, data: bytes, durable: bool) -> None:
        self.records += parse_lines(data, "memory", len(self.records))[0]

    def close(self) -> None: ...


class _FileJournal(Journal):
    """One file, locked for this process; durable means fsync."""

    def __init__(self, path: Path) -> None:
        FolderStore(path.parent).ensure_folder()
        is_new = not path.exists()
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            if not try_lock(self._handle):
                raise UserError(f"another process carries on the search of {path}; wait for it, or end it")
            records, taken = parse_lines(path.read_bytes(), str(path))
        except BaseException:
            os.close(self._handle)
            raise
        os.ftruncate(self._handle, taken)
        if is_new:
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            os.fsync(folder)
            os.close(folder)
        self._path = path
        super().__init__(records)

    def _write(self, data: bytes, durable: bool) -> None:
        try:
            rest = data
            while rest:
                rest = rest[os.write(self._handle, rest) :]
            if durable:
                os.fsync(self._handle)
        except OSError as error:
            raise RunFailed(
                f"{self._path}: cannot be written ({error.strerror}); free some space, then run the same command again"
            ) from error

    def close(self) -> None:
        os.close(self._handle)


class _SegmentJournal(Journal):
    """Objects with increasing numbers, each written by whoever finds its name free."""

    def __init__(self, store: Store) -> None:
        self._store = store
        keys = [entry.key for entry in store.list(SEGMENTS)]
        records, _ = parse_lines(b"".join(store.read(key) for key in keys), f"{store.address}/{SEGMENTS}")
        self._segment = len(keys)
        self._held_back = b""
        self._since = time.monotonic()
        super().__init__(records)

    def _write(self, data: bytes, durable: bool) -> None:
        self._held_back += data
        if self._held_back and (durable or time.monotonic() - self._since > HELD_BACK_S):
            if not self._store.create(f"{SEGMENTS}{self._segment:08d}.jsonl", self._held_back):
                raise RunFailed(
                    f"another process carries on the search of {self._store.address}; this one has stopped. "
                    "Nothing is lost: wait for the other"
                )
            self._segment += 1
            self._held_back, self._since = b"", time.monotonic()

    def close(self) -> None:
        if self._held_back:
            self._write(b"", True)
