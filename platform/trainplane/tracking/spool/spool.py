"""The durable half of tracking: records on the local disk, in order, until MLflow has acknowledged them.

`append` writes one JSON line with one unbuffered write, so a record survives SIGKILL when the call returns; a thread
syncs it to the disk within a second. Files (pictures, texts) lie beside and are referenced by a record. Nothing here
knows MLflow or the network: `drain` sends what lies here, from this process or from another one.

    FOLDER/records.jsonl   one record a line, appended by one writer
    FOLDER/sent.json       how far MLflow has acknowledged them (`Sent`), replaced atomically
    FOLDER/rejected.jsonl  records that the server refused for good, with its reason
    FOLDER/about.json      whose records these are (`about`)
    FOLDER/files/          attachments that are not acknowledged yet
    FOLDER/*.lock          flock: one writer, one drainer; the kernel releases them on death
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
from trainplane.tracking.run_id import Birth
from trainplane.tracking.spool.ledger import Ledger, Record, is_sound, standing
from trainplane.tracking.spool.meta import About, introduced, replace_file

SYNC_EVERY_S = 0.5
# Whoever only looks whether a lock is free has it for milliseconds.
LOOK_S = 0.4
WRITER_LOCK = "writer.lock"


@dataclass(frozen=True)
class Sent:
    """How far a spool was acknowledged, and what the records up to there amount to (`branches.Ledger`).

    offset -- bytes of records.jsonl that need not be sent again
    held -- byte from which on points may still wait for a checkpoint; None where points do not wait
    """

    offset: int = 0
    marks: dict[str, int] = field(default_factory=dict)
    committed: int | None = None
    held: int | None = None

    @property
    def needed_from(self) -> int:
        """Nothing before this byte is needed any more."""
        return self.offset if self.held is None else min(self.offset, self.held)

    def ledger(self) -> Ledger:
        """A ledger of its own of what was acknowledged."""
        return Ledger(dict(self.marks), self.committed)


class Spool:
    """The writing end. One process at a time holds it; a second one is refused."""

    def __init__(
        self, folder: Path, *, run_id: str, tracking: str, birth: Birth | None = None, patience_s: float = LOOK_S
    ) -> None:
        """Open or create the spool of run `run_id` whose MLflow is at `tracking` (an address without secrets).

        `birth` says what the run is to be made with, where `run_id` is a reserved one. Another process that holds the
        spool is waited for during `patience_s` seconds.

        A last line torn by a crash is cut off, acknowledged records and attachments without a record are removed.
        """
        self.folder = folder
        (folder / "files").mkdir(parents=True, exist_ok=True)
        self._writer_lock = FileLock(folder / WRITER_LOCK)
        if not self._writer_lock.acquire(wait_s=patience_s):
            raise UserError(
                f"{folder}: another process is recording run {run_id} right now; wait until it has ended, or stop it"
            )
        try:
            self.about = introduced(folder, About(run_id, tracking, birth))
            sent = _mend(folder)
            self.ledger = sent.ledger()
            for record, _ in pending(folder, sent.offset):
                self.ledger.take(record or {})
            self._fd = os.open(folder / "records.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        except BaseException:
            # A disk that is full today: whoever tries again must not find us here.
            self._writer_lock.release()
            raise
        self._size = os.fstat(self._fd).st_size
        self._append_lock = threading.Lock()
        self._unsynced: list[Path] = []
        self._dirty = threading.Event()
        self._closing = threading.Event()
        self._syncer = threading.Thread(target=self._sync_loop, name="spool-sync", daemon=True)
        self._syncer.start()

    def append(self, record: Record) -> None:
        """Write one record; it survives SIGKILL when this returns. A full disk raises OSError and leaves no half."""
        line = json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
        self._append(line)

    def _append(self, lines: bytes) -> None:
        with self._append_lock:
            if os.write(self._fd, lines) != len(lines):
                os.ftruncate(self._fd, self._size)
                raise OSError(errno.ENOSPC, "no space left for records", str(self.folder))
            self._size += len(lines)
        self._dirty.set()

    def _say(self, record: Record) -> None:
        self.append(record)
        self.ledger.take(record)

    def attach(self, name: str, data: bytes) -> str:
        """Keep `data` beside the records under the file name `name`; returns the path a record refers to it by."""
        relative = f"files/{secrets.token_hex(8)}/{name}"
        path = self.folder / relative
        path.parent.mkdir()
        try:
            path.write_bytes(data)
        except OSError:
            # On a full disk half a picture would only take the room of records.
            shutil.rmtree(path.parent)
            raise
        self._unsynced.append(path)
        return relative

    def unsent(self) -> bytes:
        """The lines that MLflow does not have, or only under `live/`, for a checkpoint to carry."""
        sent = read_sent(self.folder)
        with (self.folder / "records.jsonl").open("rb") as stream:
            stream.seek(sent.needed_from)
            lines = stream.read(self._size - stream.tell())
        # Reading them costs milliseconds of a step, and mostly they are all of one attempt.
        if b'{"k":"branch"' not in lines:
            return lines
        return b"".join(standing(((_parse(raw), raw) for raw in lines.splitlines(keepends=True)), sent.committed))

    def go_on_from(self, step: int, lines: bytes) -> int:
        """Give up the points that wait, and take in those up to `step` that a checkpoint brought, with all else there.

        `lines` is what `unsent` returned, here or on another node. Attachments stayed there: records of files are left
        out, and so are other lines that stand here already. Returns the number of lines taken in.
        """
        here = {raw for _, raw in pending(self.folder, 0)}
        self._say({"k": "branch", "step": step})
        added = 0
        for line in lines.splitlines(keepends=True):
            record = _parse(line)
            # Whose run it is, and how an earlier attempt ended, is none of the next one's business.
            if record is None or record["k"] in ("commit", "branch", "start", "status") or "files" in record:
                continue
            # Points are sent again even so: MLflow may have them under `live/` only, and ignores what it has.
            if record["step"] > step if record["k"] == "metrics" else line in here:
                continue
            self._append(line)
            self.ledger.take(record)
            added += 1
        return added

    def close(self) -> None:
        """Sync and release; unsent records stay on the disk."""
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
        # Attachments first: after a power failure a record must not refer to a file that is empty.
        while self._unsynced:
            path = self._unsynced.pop()
            if path.exists():
                with path.open("rb") as attachment:
                    os.fsync(attachment.fileno())
        os.fdatasync(self._fd)


def read_sent(folder: Path) -> Sent:
    """What was acknowledged. An unreadable file counts as nothing: sending again changes nothing in MLflow."""
    try:
        stored = json.loads((folder / "sent.json").read_text())
        marks = {str(key): int(step) for key, step in stored["marks"].items()}
        committed, held = (None if stored.get(name) is None else int(stored[name]) for name in ("committed", "held"))
        return Sent(int(stored["offset"]), marks, committed, held)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Sent()


def write_sent(folder: Path, sent: Sent) -> None:
    """Remember an acknowledgement. Replaced atomically; call it under the drainer's lock."""
    replace_file(folder / "sent.json", json.dumps(asdict(sent)).encode())


def sent_within(folder: Path) -> Sent:
    """As `read_sent`, but never beyond the last whole record. Call it under the drainer's lock.

    After a power cut the records may reach less far than the acknowledgement of them, and so they do when a start was
    killed between truncate and `write_sent`. What is appended next would count as acknowledged. What was cut off is in
    MLflow, or waited for a checkpoint and comes back with it: marks and `committed` go on saying so.
    """
    sent, path = read_sent(folder), folder / "records.jsonl"
    whole = _end_of_last_line(path, path.stat().st_size)
    if max(sent.offset, sent.held or 0) > whole:
        sent = replace(sent, offset=min(sent.offset, whole), held=None if sent.held is None else min(sent.held, whole))
        write_sent(folder, sent)
    return sent


def is_written(folder: Path) -> bool:
    """Whether some process has this spool open for writing."""
    return FileLock(folder / WRITER_LOCK).holder() is not None


def drainer_lock(folder: Path) -> AbstractContextManager[bool]:
    """Whether this caller is the one drainer of the spool while the block runs."""
    return FileLock(folder / "drain.lock").attempt()


def _mend(folder: Path) -> Sent:
    """Remove the traces of a crash; returns how far the spool is acknowledged."""
    path = folder / "records.jsonl"
    path.touch(mode=0o600)
    size = path.stat().st_size
    whole = _end_of_last_line(path, size)
    if whole < size:
        os.truncate(path, whole)
    with drainer_lock(folder) as alone:
        # A drainer at work has found out for itself, and needs its offsets and attachments; the next start tidies up.
        if not alone:
            return read_sent(folder)
        sent = sent_within(folder)
        if sent.needed_from and sent.needed_from >= whole:
            os.truncate(path, 0)
            sent = replace(sent, offset=0, held=None if sent.held is None else 0)
            write_sent(folder, sent)
        _remove_leftovers(folder, sent)
    return sent


def _remove_leftovers(folder: Path, sent: Sent) -> None:
    referenced = {
        local.split("/")[1]
        for record, _ in pending(folder, sent.offset)
        for local, _ in (record or {}).get("files", [])
    }
    for leftover in (folder / "files").iterdir():
        if leftover.name not in referenced:
            shutil.rmtree(leftover)


def pending(folder: Path, start: int) -> Iterator[tuple[Record | None, bytes]]:
    """Whole lines from byte `start` on, each with its record, or with None where the line is no record."""
    with (folder / "records.jsonl").open("rb") as stream:
        stream.seek(start)
        for raw in stream:
            if not raw.endswith(b"\n"):
                return
            yield _parse(raw), raw


def _parse(raw: bytes) -> Record | None:
    try:
        record = json.loads(raw)
    except ValueError:
        return None
    return record if is_sound(record) else None


def _end_of_last_line(path: Path, size: int) -> int:
    """Length of the file without a torn last line."""
    if size == 0:
        return 0
    with path.open("rb") as stream:
        position = size
        while position > 0:
            start = max(0, position - 65536)
            stream.seek(start)
            newline = stream.read(position - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            position = start
    return 0
