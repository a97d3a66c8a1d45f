"""File locks and process identity, with real processes: held, killed, and numbers that were reused."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from trainplane import locks
from trainplane.locks import FileLock, ProcessId, boot_id, machine_id

HOLD = """
import sys, time
from pathlib import Path
from trainplane.locks import FileLock
lock = FileLock(Path(sys.argv[1]))
assert lock.acquire()
lock.write_pid()
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


@pytest.fixture
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock at `path`."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_lock_of_another_process_is_refused_and_names_it(path: Path, holder: subprocess.Popen[str]) -> None:
    lock = FileLock(path)
    assert lock.holder() == str(holder.pid)
    started = time.monotonic()
    assert not lock.acquire()
    assert time.monotonic() - started < 1.0
    with lock.attempt(wait_s=0.1) as acquired:
        assert not acquired
    # A refused attempt does not release the other's lock.
    assert lock.holder() == str(holder.pid)


def test_a_killed_holder_leaves_a_free_lock(path: Path, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    lock = FileLock(path)
    assert lock.holder() is None
    assert lock.acquire()
    lock.release()


def test_waiting_ends_when_the_holder_does(path: Path, holder: subprocess.Popen[str]) -> None:
    threading.Timer(0.3, holder.kill).start()
    with FileLock(path).attempt(wait_s=30.0) as acquired:
        assert acquired


def test_a_released_lock_can_be_taken_again_and_its_file_stays(path: Path) -> None:
    first, second = FileLock(path), FileLock(path)
    assert first.acquire()
    assert not second.acquire()
    first.release()
    first.release()
    assert second.acquire()
    second.release()
    assert path.exists()
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_attempt_releases_after_an_error(path: Path) -> None:
    with pytest.raises(ZeroDivisionError), FileLock(path).attempt():
        raise ZeroDivisionError
    assert FileLock(path).holder() is None


def test_looking_at_a_lock_creates_nothing(path: Path) -> None:
    assert FileLock(path).holder() is None
    assert FileLock(path / "deeper").holder() is None
    assert not path.exists()


def test_a_holder_that_could_not_write_its_number_is_unknown(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space left")

    lock = FileLock(path)
    assert lock.acquire()
    monkeypatch.setattr(os, "pwrite", full)
    lock.write_pid()
    assert FileLock(path).holder() == "unknown"
    lock.release()


def test_a_file_system_without_locks_is_an_error_and_leaves_no_open_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(OSError, match="no locks available"):
        FileLock(path).acquire()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_link_in_the_place_of_the_lock_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        FileLock(path).acquire()
    assert not (tmp_path / "elsewhere").exists()


def test_a_process_is_alive_until_it_is_killed() -> None:
    assert ProcessId.here().is_alive()
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as child:
        process = ProcessId.of(child.pid)
        assert process is not None
        assert process.is_alive()
        child.kill()
        # Not waited for yet: a zombie counts as gone.
        deadline = time.monotonic() + 10
        while process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not process.is_alive()
    assert ProcessId.of(child.pid) is None


def test_a_reused_number_is_another_process() -> None:
    here = ProcessId.here()
    earlier = replace(here, start_ticks=here.start_ticks - 60 * os.sysconf("SC_CLK_TCK"))
    assert not earlier.is_alive()


def test_a_start_is_stored_as_psutil_reports_it_and_read_back() -> None:
    here = ProcessId.here()
    assert here.born == psutil.Process().create_time()
    assert ProcessId.born_at(here.pid, here.born) == here


def test_a_stored_start_survives_a_small_change_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    here, boot_time = ProcessId.here(), psutil.boot_time()
    stored = here.born
    monkeypatch.setattr(locks.psutil, "boot_time", lambda: boot_time + 1.0)
    assert ProcessId.born_at(here.pid, stored).is_alive()


def test_the_name_of_a_program_may_hold_anything(tmp_path: Path) -> None:
    program = tmp_path / "a) S (b 1"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([str(program), "600"]) as child:
        process = ProcessId.of(child.pid)
        assert process is not None
        assert process.born == psutil.Process(child.pid).create_time()
        child.kill()


def test_the_machine_is_this_boot_and_its_namespace_of_numbers() -> None:
    assert machine_id() == f"{boot_id()} {os.readlink('/proc/self/ns/pid')}"


def test_a_system_without_proc_recognises_the_same_process():
    assert ProcessId.from_psutil(os.getpid()) is not None
    assert ProcessId.from_psutil(os.getpid()).is_alive()
    assert abs(ProcessId.from_psutil(os.getpid()).born - ProcessId.here().born) < 1.0
    assert ProcessId.from_psutil(2**22 + 1) is None


def test_a_lock_that_cannot_be_opened_may_be_held(tmp_path, monkeypatch):
    def refuse(path, flags, *mode):
        raise OSError(errno.EIO, "input/output error")

    assert FileLock(tmp_path / "none.lock").holder() is None
    (tmp_path / "some.lock").touch()
    monkeypatch.setattr(os, "open", refuse)
    assert FileLock(tmp_path / "some.lock").holder() == "unknown"


def test_a_holder_is_seen_on_a_read_only_file_system(tmp_path, monkeypatch):
    lock, opened = FileLock(tmp_path / "run.lock"), os.open

    def read_only(path, flags, *mode):
        if flags & os.O_RDWR:
            raise OSError(errno.EROFS, "read-only file system")
        return opened(path, flags, *mode)

    with lock.attempt() as acquired:
        assert acquired
        lock.write_pid()
        monkeypatch.setattr(os, "open", read_only)
        assert FileLock(tmp_path / "run.lock").holder() == str(os.getpid())
