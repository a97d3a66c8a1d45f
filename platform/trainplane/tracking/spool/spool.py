"""Records of a run on disk until MLflow acknowledges them.

`append` writes one JSON line with one unbuffered write, so a record survives SIGKILL when the call returns; a thread
syncs it to the disk within a second. Files (images, texts) lie beside the records, which refer to them. This module
knows neither MLflow nor the network: `upload` sends the records, from this process or another one.

    FOLDER/records.jsonl   one record a line, appended by one writer
    FOLDER/sent.json       how far MLflow has acknowledged them (`Acknowledged`), replaced atomically
    FOLDER/rejected.jsonl  entities that the server refused for good, with its reason
    FOLDER/about.json      run and server (`meta`)
    FOLDER/files/          attachments that are not acknowledged yet
    FOLDER/*.lock          one writer, one uploader; the kernel releases the locks on death
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from trainplane.errors import UserError
from trainplane.locks import FileLock
from trainplane.tracking.run_id import RunSpec
from trainplane.tracking.spool.ledger import Ledger, SpoolRecord, is_valid, without_discarded
from trainplane.tracking.spool.meta import SpoolMeta, replace_file, update_meta

SYNC_EVERY_S = 0.5
# A process that only looks whether a lock is free has it for milliseconds.
LOCK_PATIENCE_S = 0.4
WRITER_LOCK = "writer.lock"
_READ_BYTES = 65536


@dataclass(frozen=True)
class Acknowledged:
    """Progress of a spool's acknowledgement, with the run's state."""

    offset: int = 0  # Bytes of records.jsonl that need not be sent again
    marks: dict[str, int] = field(default_factory=dict)  # As in `Ledger`
    committed: int | None = None  # As in `Ledger`
    # Byte from which on acknowledged points may still be pending; None if points are never pending
    held: int | None = None

    @property
    def needed_from(self) -> int:
        """First byte that is still needed."""
        return self.offset if self.held is None else min(self.offset, self.held)

    def ledger(self) -> Ledger:
        """A new ledger with the state at `offset`."""
        return Ledger(dict(self.marks), self.committed)


class Spool:
    """Writing end of a spool; one process has it."""

    def __init__(
        self,
        folder: Path,
        *,
        run_id: str,
        tracking: str,
        run_spec: RunSpec | None = None,
        patience_s: float = LOCK_PATIENCE_S,
    ) -> None:
        """Opens or creates the spool of a run.

        Removes the traces of a crash: a torn last line, acknowledged records, attachments without a record.

        Args:
            folder: Folder of this run alone.
            run_id: MLflow's id, or a reserved one.
            tracking: Address of the server, without secrets.
            run_spec: Arguments to create the run, if `run_id` is a reserved one.
            patience_s: Seconds to wait for another process that is writing.
        """
        self.folder = folder
        (folder / "files").mkdir(parents=True, exist_ok=True)
        self._writer_lock = FileLock(folder / WRITER_LOCK)
        if not self._writer_lock.acquire(wait_s=patience_s):
            raise UserError(
                f"{folder}: another process is recording run {run_id} right now; wait until it has ended, or stop it"
            )
        try:
            self.meta = update_meta(folder, SpoolMeta(run_id, tracking, run_spec))
            acknowledged = _repair(folder)
            # The state after the last record: what was acknowledged, and all records since.
            self.ledger = acknowledged.ledger()
            for record, _ in read_lines(folder, acknowledged.offset):
                self.ledger.apply(record or {})
            self._fd = os.open(folder / "records.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        except BaseException:
            # The disk may be full: the next try must find the lock free.
            self._writer_lock.release()
            raise
        self._size = os.fstat(self._fd).st_size
        self._append_lock = threading.Lock()
        self._unsynced: list[Path] = []
        self._dirty = threading.Event()
        self._closing = threading.Event()
        self._syncer = threading.Thread(target=self._sync_loop, name="spool-sync", daemon=True)
        self._syncer.start()

    def append(self, record: SpoolRecord) -> None:
        """Writes one record, safe from SIGKILL when this returns.

        A full disk raises `OSError` and leaves no half record.
        """
        line = json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
        self._append(line)
        self.ledger.apply(record)

    def _append(self, line: bytes) -> None:
        with self._append_lock:
            # A full disk may take a part of the line.
            if os.write(self._fd, line) != len(line):
                os.ftruncate(self._fd, self._size)
                raise OSError(errno.ENOSPC, "no space left for records", str(self.folder))
            self._size += len(line)
        self._dirty.set()

    def attach(self, name: str, data: bytes) -> str:
        """Stores a file; returns the path for a record."""
        relative = f"files/{secrets.token_hex(8)}/{name}"
        path = self.folder / relative
        path.parent.mkdir()
        try:
            path.write_bytes(data)
        except OSError:
            # On a full disk half an image would only take space from records.
            shutil.rmtree(path.parent)
            raise
        self._unsynced.append(path)
        return relative

    def compact(self, *, above_bytes: int) -> None:
        """Empties a file of acknowledged records beyond a size.

        For spools without an end; a run's is emptied when it is opened.
        """
        if self._size <= above_bytes or read_acknowledged(self.folder).needed_from < self._size:
            return
        # An uploader at work has offsets of its own; the next call tries again.
        with self._append_lock, upload_lock(self.folder) as is_uploader:
            acknowledged = read_acknowledged(self.folder)
            if is_uploader and acknowledged.needed_from >= self._size:
                # Killed in between: opening the spool repairs an offset beyond the last record.
                os.ftruncate(self._fd, 0)
                self._size = 0
                pending_from = None if acknowledged.held is None else 0
                write_acknowledged(self.folder, replace(acknowledged, offset=0, held=pending_from))

    def unsent(self) -> bytes:
        """Lines that MLflow lacks, or has only as given up."""
        acknowledged = read_acknowledged(self.folder)
        with (self.folder / "records.jsonl").open("rb") as stream:
            # Acknowledged points that are still pending are carried, too.
            stream.seek(acknowledged.needed_from)
            lines = stream.read(self._size - stream.tell())
        # Parsing costs milliseconds of a step, and mostly all lines are of one attempt.
        if b'{"k":"branch"' not in lines:
            return lines
        parsed = ((_parse(raw), raw) for raw in lines.splitlines(keepends=True))
        return b"".join(without_discarded(parsed, acknowledged.committed))

    def resume_from(self, step: int, lines: bytes) -> int:
        """Discards pending points; returns the number of lines taken over.

        `lines` are a checkpoint's; metrics beyond `step` are left out. Attachments stay on their node, so records of
        files are left out, and so are lines that are here already.
        """
        present = {raw for _, raw in read_lines(self.folder, 0)}
        self.append({"k": "branch", "step": step})
        added = 0
        for line in lines.splitlines(keepends=True):
            record = _parse(line)
            # Owner and end of an earlier attempt do not hold for this one.
            if record is None or record["k"] in ("commit", "branch", "start", "status") or "files" in record:
                continue
            # Points are sent again in any case: MLflow may have them as given up only, and ignores those it has.
            if record["step"] > step if record["k"] == "metrics" else line in present:
                continue
            self._append(line)
            self.ledger.apply(record)
            added += 1
        return added

    def close(self) -> None:
        """Syncs and releases the spool; unsent records stay."""
        self._closing.set()
        self._dirty.set()
        self._syncer.join()
        os.close(self._fd)
        self._writer_lock.release()

    def _sync_loop(self) -> None:
        while not self._closing.is_set():
            self._dirty.wait()
            self._dirty.clear()
            self._sync()
            self._closing.wait(SYNC_EVERY_S)
        self._sync()

    def _sync(self) -> None:
        # Attachments first: after a power failure a record must not refer to an empty file.
        while self._unsynced:
            # `attach` may append at the same time; `pop` takes each path once.
            path = self._unsynced.pop()
            if path.exists():
                with path.open("rb") as attachment:
                    os.fsync(attachment.fileno())
        os.fdatasync(self._fd)


def read_acknowledged(folder: Path) -> Acknowledged:
    """Reads `sent.json`; unreadable means nothing, as resending changes nothing."""
    try:
        stored = json.loads((folder / "sent.json").read_text())
        marks = {str(key): int(step) for key, step in stored["marks"].items()}
        committed, pending_from = (
            None if stored.get(name) is None else int(stored[name]) for name in ("committed", "held")
        )
        return Acknowledged(int(stored["offset"]), marks, committed, pending_from)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Acknowledged()


def write_acknowledged(folder: Path, acknowledged: Acknowledged) -> None:
    """Replaces `sent.json` atomically. Call it under the uploader's lock."""
    replace_file(folder / "sent.json", json.dumps(asdict(acknowledged)).encode())


def repair_acknowledged(folder: Path) -> Acknowledged:
    """Reads `sent.json`; repairs offsets beyond the last record.

    Call it under the uploader's lock. After a power cut, or a start killed between truncating and acknowledging, the
    records reach less far than their acknowledgement, and records appended next would count as acknowledged. What was
    cut off is in MLflow, or was pending and comes back with its checkpoint: marks and `committed` stay as they are.
    """
    acknowledged, path = read_acknowledged(folder), folder / "records.jsonl"
    end = _end_of_last_line(path, path.stat().st_size)
    if max(acknowledged.offset, acknowledged.held or 0) > end:
        pending_from = None if acknowledged.held is None else min(acknowledged.held, end)
        acknowledged = replace(acknowledged, offset=min(acknowledged.offset, end), held=pending_from)
        write_acknowledged(folder, acknowledged)
    return acknowledged


def has_writer(folder: Path) -> bool:
    """Checks whether a process has this spool open for writing."""
    return FileLock(folder / WRITER_LOCK).holder() is not None


def upload_lock(folder: Path) -> AbstractContextManager[bool]:
    """Lock of the spool's uploader; yields whether it is acquired."""
    return FileLock(folder / "drain.lock").attempt()


def _repair(folder: Path) -> Acknowledged:
    """Removes the traces of a crash; returns what is acknowledged."""
    path = folder / "records.jsonl"
    path.touch(mode=0o600)
    size = path.stat().st_size
    end = _end_of_last_line(path, size)
    # A line torn by a crash was never accepted.
    if end < size:
        os.truncate(path, end)
    with upload_lock(folder) as is_uploader:
        # An uploader at work repairs by itself, and needs its offsets and attachments; the next start cleans up.
        if not is_uploader:
            return read_acknowledged(folder)
        acknowledged = repair_acknowledged(folder)
        # All records are acknowledged and none is pending: start the file again.
        if acknowledged.needed_from and acknowledged.needed_from >= end:
            os.truncate(path, 0)
            acknowledged = replace(acknowledged, offset=0, held=None if acknowledged.held is None else 0)
            write_acknowledged(folder, acknowledged)
        _remove_orphans(folder, acknowledged)
    return acknowledged


def _remove_orphans(folder: Path, acknowledged: Acknowledged) -> None:
    referenced = {
        local.split("/")[1]
        for record, _ in read_lines(folder, acknowledged.offset)
        # `files/<random digits>/<name>`
        for local, _ in (record or {}).get("files", [])
    }
    for path in (folder / "files").iterdir():
        if path.name not in referenced:
            shutil.rmtree(path)


def read_lines(folder: Path, start: int) -> Iterator[tuple[SpoolRecord | None, bytes]]:
    """Whole lines from byte `start` on, None for damaged records."""
    with (folder / "records.jsonl").open("rb") as stream:
        stream.seek(start)
        for raw in stream:
            # Torn by a crash, or still being written.
            if not raw.endswith(b"\n"):
                return
            yield _parse(raw), raw


def _parse(raw: bytes) -> SpoolRecord | None:
    try:
        record = json.loads(raw)
    except ValueError:
        return None
    return record if is_valid(record) else None


def _end_of_last_line(path: Path, size: int) -> int:
    """Length of the file without a torn last line."""
    if size == 0:
        return 0
    # Search backwards, block by block, for the last newline.
    with path.open("rb") as stream:
        position = size
        while position > 0:
            start = max(0, position - _READ_BYTES)
            stream.seek(start)
            newline = stream.read(position - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            position = start
    return 0
