"""Append-only journal of a search: its facts and decisions.

    with open_journal(store, "searches/demo-0123456789ab") as journal:
        state = fold(journal.records, goals)             # all records so far
        journal.append([{"k": "go", …}], durable=True)   # on the disk or in the object store when this returns

A line is a checksum, a space and one JSON object with its number as `n`. In a folder the journal is one file that only
grows. In an object store every durable append is a new object with the next number, which only the first of two
processes can create; the second one stops. Of a long journal, `journal-from-start/N.jsonl` holds the first N of these
objects together, so that few have to be read. A kill leaves a torn last line, which is cut off; damage before it is an
error.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainplane.config.canonical import canonical_json
from trainplane.errors import RunFailed, UserError
from trainplane.locks import try_lock
from trainplane.storage import Store
from trainplane.storage.folder import FolderStore

# A record of kind `k`; `n` and `t` are its number and time.
JournalRecord = dict[str, Any]
FILE = "journal.jsonl"
# Folder of all searches in the checkpoint store, and the file beside a journal that says how its search was started.
FOLDER = "searches"
DESCRIPTION_FILE = "search.json"
SEGMENTS = "journal/"
# Copies of the first segments, joined. The segments stay: a process that was cut off would create a deleted one again.
JOINED = "journal-from-start/"
# Segments behind the last copy after which the next one is written, and segments that are read at once.
JOIN_EVERY = 200
READERS = 16
# Oldest age of records that no decision depends on, before they are written to an object store.
MAX_BUFFERED_S = 10.0


class Journal(ABC):
    """Records in order.

    Attributes:
        records: Records at the time of opening.
    """

    def __init__(self, records: list[JournalRecord]) -> None:
        self.records = records
        self._next_number = len(records)

    def append(self, records: Sequence[Mapping[str, Any]], *, durable: bool = False) -> None:
        """Appends records, which get number and time.

        `durable` returns only when these and all earlier records survive a loss of this machine's power.
        """
        # Number and time of writing are added to each record.
        lines = []
        for record in records:
            lines.append(encode_line({**record, "n": self._next_number, "t": round(time.time(), 3)}))
            self._next_number += 1
        self._write(b"".join(lines), durable)

    @abstractmethod
    def _write(self, data: bytes, durable: bool) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """Writes buffered records and closes the journal."""


@contextmanager
def open_journal(store: Store, folder: str) -> Iterator[Journal]:
    """Opens a journal for this process alone.

    Raises `RunFailed` if it is damaged, `UserError` if another process runs this search.
    """
    journal: Journal
    if isinstance(store, FolderStore):
        journal = _FileJournal(Path(store.address) / folder / FILE)
        journal.records = _followed(journal.records, store.address)
    else:
        journal = _SegmentJournal(store.child(folder))
    try:
        yield journal
    finally:
        journal.close()


def read_journal(store: Store, folder: str) -> list[JournalRecord]:
    """Reads all records, also during writes; none without a journal."""
    if isinstance(store, FolderStore):
        path = Path(store.address) / folder / FILE
        return _followed(parse_lines(path.read_bytes(), str(path))[0], store.address) if path.exists() else []
    # Listing is in the order of names, hence of numbers.
    return _read_segments(store.child(folder))[0]


def _followed(value: Any, store: str) -> Any:
    """Corrects checkpoints' addresses if their folder was moved.

    A record has RUN/STEP below the folder that the store was at; they are looked for below `store`.
    """
    if isinstance(value, list):
        return [_followed(entry, store) for entry in value]
    if not isinstance(value, dict):
        return value
    followed = {name: _followed(entry, store) for name, entry in value.items()}
    if isinstance(recorded := value.get("checkpoint"), str) and recorded.startswith("/"):
        here = Path(store, *Path(recorded).parts[-2:])
        if not Path(recorded).exists() and here.exists():
            followed["checkpoint"] = str(here)
    return followed


def _read_segments(store: Store) -> tuple[list[JournalRecord], int]:
    """Records in an object store and the number of objects."""
    names = sorted(entry.key for entry in store.list(JOINED))
    joined = store.read(names[-1]) if names else b""
    first = int(Path(names[-1]).stem) if names else 0
    keys = [entry.key for entry in store.list(SEGMENTS)]
    with ThreadPoolExecutor(READERS) as pool:
        data = joined + b"".join(pool.map(store.read, keys[first:]))
    return parse_lines(data, f"{store.address}/{SEGMENTS}")[0], len(keys)


def _join_segments(store: Store, records: Sequence[JournalRecord], segments: int) -> None:
    """Writes the copy of the first `segments`, if due."""
    newest = max((int(Path(entry.key).stem) for entry in store.list(JOINED)), default=0)
    if segments - newest >= JOIN_EVERY:
        store.create(f"{JOINED}{segments:08d}.jsonl", b"".join(encode_line(record) for record in records))


def encode_line(record: Mapping[str, Any]) -> bytes:
    """Encodes one line, checksum first.

    Values that are not finite are no JSON; encode them before (`state.encode_values`).
    """
    body = canonical_json(record)
    return b"%08x %s\n" % (zlib.crc32(body), body)


def parse_lines(data: bytes, where: str, first: int = 0) -> tuple[list[JournalRecord], int]:
    """Parses lines, numbered from `first`, up to a torn end.

    Returns the records and their number of bytes. Raises `RunFailed`, naming `where`, if a good line follows a bad one:
    that is no torn end, decisions are missing.
    """
    records: list[JournalRecord] = []
    size = 0
    lines = data.split(b"\n")
    # The part behind the last newline is empty or torn.
    for index, line in enumerate(lines[:-1]):
        record = _parse_line(line, first + len(records))
        if record is None:
            # A torn end has nothing good behind it.
            if any(_parse_line(later, None) is not None for later in lines[index + 1 :]):
                raise RunFailed(
                    f"journal {where} is damaged at record {len(records)}, and others follow it; restore the file from "
                    "a backup, or move its folder away and start the search again"
                )
            break
        records.append(record)
        size += len(line) + 1
    return records, size


def _parse_line(line: bytes, number: int | None) -> JournalRecord | None:
    """Record of a line, if checksum and number are right."""
    checksum, _, body = line.partition(b" ")
    try:
        # A torn or damaged line has another checksum.
        if len(checksum) != 8 or int(checksum, 16) != zlib.crc32(body):
            return None
        record = json.loads(body)
    except ValueError:
        return None
    return record if isinstance(record, dict) and number in (None, record.get("n")) else None


class MemoryJournal(Journal):
    """Journal in memory, for simulations and read-only drivers."""

    def _write(self, data: bytes, durable: bool) -> None:
        self.records += parse_lines(data, "memory", len(self.records))[0]

    def close(self) -> None:
        """Does nothing."""


class _FileJournal(Journal):
    """Journal in one file, locked for this process."""

    def __init__(self, path: Path) -> None:
        FolderStore(path.parent).ensure_folder()
        is_new = not path.exists()
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            if not try_lock(self._handle):
                raise UserError(f"another process runs the search of {path}; wait for it, or end it")
            records, size = parse_lines(path.read_bytes(), str(path))
        except BaseException:
            os.close(self._handle)
            raise
        # Cut off a torn end, so that the next append starts a line.
        os.ftruncate(self._handle, size)
        if is_new:
            # A new file survives a power loss only if its folder is synced, too.
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            os.fsync(folder)
            os.close(folder)
        self._path = path
        super().__init__(records)

    def _write(self, data: bytes, durable: bool) -> None:
        try:
            # The kernel may write less than asked.
            while data:
                data = data[os.write(self._handle, data) :]
            if durable:
                os.fsync(self._handle)
        except OSError as error:
            raise RunFailed(
                f"{self._path}: cannot be written ({error.strerror}); free some space, then run the same command again"
            ) from error

    def close(self) -> None:
        os.close(self._handle)


class _SegmentJournal(Journal):
    """Journal of numbered objects in an object store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        records, self._segment = _read_segments(store)
        _join_segments(store, records, self._segment)
        self._buffer = b""
        self._written_at = time.monotonic()
        super().__init__(records)

    def _write(self, data: bytes, durable: bool) -> None:
        self._buffer += data
        if self._buffer and (durable or time.monotonic() - self._written_at > MAX_BUFFERED_S):
            # Fails if the object exists: then another process has written the next segment.
            if not self._store.create(f"{SEGMENTS}{self._segment:08d}.jsonl", self._buffer):
                raise RunFailed(
                    f"another process runs the search of {self._store.address}; this one has stopped. "
                    "Nothing is lost: wait for the other"
                )
            self._segment += 1
            self._buffer, self._written_at = b"", time.monotonic()

    def close(self) -> None:
        if self._buffer:
            self._write(b"", True)
