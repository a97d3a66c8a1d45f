"""Processes that outlive the command which started them: started, recognised, ended. Never by name.

A process is known by its number and its time of birth, because numbers are given out again. What it started in turn
carries a mark in its environment, so that nothing is left over even where a leader was killed and its children were
not (uvicorn's, Ray's).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

MARK = "ISNET_STACK_MARK"
# A clock of ticks: two readings of one birth differ by less.
_SAME_BIRTH_S = 0.5


@dataclass(frozen=True)
class Launch:
    """A process to be started.

    environment -- added to ours; user -- to run as, where we are root and it refuses to be
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    folder: Path
    user: str | None = None


@dataclass(frozen=True)
class Recorded:
    """A process that was started, as it stands in the state file."""

    pid: int
    born: float


def start(launch: Launch, *, log: Path, mark: str) -> Recorded:
    """Start it in a session of its own, with its output appended to `log`."""
    environment = {**os.environ, **launch.environment, MARK: mark}
    with open(log, "ab") as output:
        process = subprocess.Popen(
            list(launch.command),
            cwd=launch.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            **({"user": launch.user, "extra_groups": []} if launch.user else {}),  # type: ignore[call-overload]
        )
    return Recorded(process.pid, psutil.Process(process.pid).create_time())


def find(recorded: Recorded | None) -> psutil.Process | None:
    """The process, if it is still that one and not a dead one that nobody has buried."""
    if recorded is None:
        return None
    try:
        process = psutil.Process(recorded.pid)
        same = abs(process.create_time() - recorded.born) < _SAME_BIRTH_S
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.Error:
        return None


def family(recorded: Iterable[Recorded]) -> dict[int, psutil.Process]:
    """The processes that are still there, with all that descends from them or shares their session."""
    leaders = {one.pid: process for one in recorded if (process := find(one))}
    found = dict(leaders)
    for process in leaders.values():
        try:
            found.update({child.pid: child for child in process.children(recursive=True)})
        except psutil.Error:
            continue
    for process in psutil.process_iter():
        if process.pid not in found and _session(process.pid) in leaders:
            found[process.pid] = process
    return found


def marked(mark: str) -> dict[int, psutil.Process]:
    """All processes that carry the mark and what descends from them, but for us and those that started us."""
    ours = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        try:
            if process.pid not in ours and process.environ().get(MARK) == mark:
                found[process.pid] = process
                found.update({child.pid: child for child in process.children(recursive=True) if child.pid not in ours})
        except (psutil.Error, OSError):
            # Gone meanwhile, or another user's.
            continue
    return found


def end(leader: psutil.Process | None, rest: Iterable[psutil.Process], *, how: int, patience_s: float) -> None:
    """Ask the leader to end with the signal `how`, wait, and kill whatever of it is left."""
    everybody = [*([leader] if leader else []), *rest]
    if leader is not None:
        _signal(leader, how)
        # Its own children end with it, or are of no use without it.
        _wait([leader], patience_s)
    left = [process for process in everybody if _is_there(process)]
    for process in left:
        _signal(process, signal.SIGKILL)
    _wait(left, 5.0)


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _is_there(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _signal(process: psutil.Process, number: int) -> None:
    with contextlib.suppress(psutil.Error):
        process.send_signal(number)


def _wait(processes: Sequence[psutil.Process], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while any(_is_there(process) for process in processes) and time.monotonic() < deadline:
        for process in processes:
            _bury(process.pid)
        time.sleep(0.02)


def _bury(pid: int) -> None:
    """Where it is our own child, take its exit status, without which it would stay as a zombie."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def resident_bytes(processes: Iterable[psutil.Process]) -> int:
    """The memory that they hold; what several of them share counts for each."""
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            total += int(process.memory_info().rss)
    return total
