"""File locks, private folders and process identity on one machine.

A lock is an `flock` of a file: the kernel releases it when its holder dies. A process is recognised by number and
start, because numbers are reused. Neither sees another machine.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_POLL_S = 0.02
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# The kernel's boot time, in whole seconds, moves by one when the clock is adjusted; a stored start moves with it.
_START_TOLERANCE_S = 1.0


def private_folder(name: str, parent: str | None = None) -> Path:
    """Folder that all processes of this account share.

    It is in `parent`, or the host's temporary folder. Raises `OSError` where it cannot be created, or another account
    might write to it.
    """
    folder = Path(parent or tempfile.gettempdir(), f"{name}-{os.getuid()}").expanduser()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise PermissionError(f"{folder} belongs to another account, or others may write to it")
    return folder


def try_lock(handle: int) -> bool:
    """Locks an open file; False if another handle has it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class FileLock:
    """Exclusive lock of one file."""

    # The file stays when the lock is released: removing it would let two holders lock two files of one name.
    def __init__(self, path: Path, *, mode: int = 0o600) -> None:
        """Opens nothing yet; `mode` is that of a new file."""
        self._path = path
        self._mode = mode
        self._handle: int | None = None

    def acquire(self, *, wait_s: float = 0.0) -> bool:
        """Takes the lock; False if another holder keeps it `wait_s`."""
        # A link planted in a shared folder is not followed: it could truncate or create a file elsewhere.
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, self._mode)
        # Polled, because `flock` itself has no time limit.
        deadline = time.monotonic() + wait_s
        try:
            while not try_lock(handle):
                if time.monotonic() >= deadline:
                    os.close(handle)
                    return False
                time.sleep(_POLL_S)
        except BaseException:
            os.close(handle)
            raise
        self._handle = handle
        return True

    def release(self) -> None:
        """Releases the lock, if it is held."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    @contextmanager
    def attempt(self, *, wait_s: float = 0.0) -> Iterator[bool]:
        """Holds the lock during the block; yields `acquire`'s result."""
        acquired = self.acquire(wait_s=wait_s)
        try:
            yield acquired
        finally:
            self.release()

    def write_pid(self) -> None:
        """Writes our process number into the file, for others' messages."""
        # A full disk is no reason to stop: `holder` reads "unknown" then.
        assert self._handle is not None
        with suppress(OSError):
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, f"{os.getpid()}\n".encode(), 0)

    def _open_existing(self) -> int:
        try:
            return os.open(self._path, os.O_RDWR)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EROFS):
                raise
            # To look at a lock, reading is enough, except on NFS.
            return os.open(self._path, os.O_RDONLY)

    def holder(self) -> str | None:
        """Holder's process number, "unknown", or None for a free lock."""
        try:
            handle = self._open_existing()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:
            # It cannot be read, so it may be held.
            return "unknown"
        try:
            # Closing the file releases the lock at once.
            if try_lock(handle):
                return None
            return os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
        finally:
            os.close(handle)


@dataclass(frozen=True)
class ProcessId:
    """A process of this machine, recognised although numbers are reused."""

    pid: int  # Its number
    start_ticks: int  # Its start, in clock ticks since boot; adjusting the clock does not change it

    @classmethod
    def here(cls) -> ProcessId:
        """This process."""
        process = cls.of(os.getpid())
        assert process is not None
        return process

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """Process with this number now; a zombie is None."""
        try:
            # The second field is the program's name in parentheses, which may hold spaces and parentheses itself.
            state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            # No such process; or, on macOS, no `/proc` at all.
            return None if Path("/proc/self/stat").exists() else cls.from_psutil(pid)
        return None if state in "ZX" else cls(pid, int(fields[18]))

    @classmethod
    def from_psutil(cls, pid: int) -> ProcessId | None:
        """Process by psutil, on systems without `/proc`."""
        try:
            process = psutil.Process(pid)
            is_over = process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
            return None if is_over else cls.born_at(pid, process.create_time())
        except psutil.Error:
            return None

    @classmethod
    def born_at(cls, pid: int, born: float) -> ProcessId:
        """Process whose start is stored in seconds since the epoch."""
        return cls(pid, round((born - psutil.boot_time()) * _TICKS_PER_S))

    @property
    def born(self) -> float:
        """Start in seconds since the epoch, as psutil's `create_time`."""
        return float(psutil.boot_time() + self.start_ticks / _TICKS_PER_S)

    def is_alive(self) -> bool:
        """True while this very process runs."""
        current = self.of(self.pid)
        return current is not None and abs(current.start_ticks - self.start_ticks) <= _START_TOLERANCE_S * _TICKS_PER_S


def boot_id() -> str:
    """Identifier of this boot; empty where the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def machine_id() -> str:
    """This boot and its process namespace; empty where unreadable."""
    # Only processes with the same machine id can be looked up by number: containers have numbers of their own.
    boot = boot_id()
    try:
        return f"{boot} {os.readlink('/proc/self/ns/pid')}" if boot else ""
    except OSError:
        return ""
