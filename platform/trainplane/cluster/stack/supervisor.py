"""Starts, finds and stops processes that outlive their command.

A process is identified by number and start (`ProcessId`), never by name. Its children carry a mark in their
environment, so that none remains even if their parent was killed and they were not (uvicorn's, Ray's).
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
from typing import Any

import psutil

from trainplane.locks import ProcessId

MARK = "ISNET_STACK_MARK"
# After SIGKILL a process ends as soon as the kernel schedules it.
_KILL_WAIT_S = 5.0


@dataclass(frozen=True)
class Launch:
    """A process to be started in `folder`.

    `user` is for a program that refuses to run as root, where we are root.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    folder: Path
    user: str | None = None


def start(launch: Launch, *, log: Path, mark: str) -> ProcessId:
    """Starts a process in its own session, logging to `log`."""
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
            **as_user(launch.user),
        )
    # Not `ProcessId.of`: a process that has ended already is a zombie, and its caller finds out.
    return ProcessId.born_at(process.pid, psutil.Process(process.pid).create_time())


def as_user(user: str | None) -> dict[str, Any]:
    """Arguments of `subprocess` for a program's user; None is ours."""
    return {"user": user, "extra_groups": []} if user else {}


def find(identity: ProcessId | None) -> psutil.Process | None:
    """Finds the process; None if it has ended."""
    if identity is None or not identity.is_alive():
        return None
    try:
        return psutil.Process(identity.pid)
    except psutil.Error:
        return None


def find_family(identities: Iterable[ProcessId]) -> dict[int, psutil.Process]:
    """Finds processes with their descendants and sessions, by number."""
    # First the recorded processes and their descendants.
    leaders = {identity.pid: process for identity in identities if (process := find(identity))}
    family = dict(leaders)
    for process in leaders.values():
        try:
            family.update({child.pid: child for child in process.children(recursive=True)})
        except psutil.Error:
            continue
    # Then their sessions: a grandchild whose parent has ended is no descendant any more.
    for process in psutil.process_iter():
        if process.pid not in family and _session(process.pid) in leaders:
            family[process.pid] = process
    return family


def find_marked(mark: str) -> dict[int, psutil.Process]:
    """Finds marked processes and descendants, by number.

    Without this process and its parents: a command started by a marked process inherits the mark.
    """
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    marked: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        try:
            if process.pid not in own and process.environ().get(MARK) == mark:
                marked[process.pid] = process
                marked.update({child.pid: child for child in process.children(recursive=True) if child.pid not in own})
        except (psutil.Error, OSError):
            # It has ended meanwhile, or is another user's.
            continue
    return marked


def stop(leader: psutil.Process | None, others: Iterable[psutil.Process], *, how: int, patience_s: float) -> None:
    """Signals the leader, waits, then kills all that still run.

    The leader gets the signal `how` and has `patience_s` seconds; None kills the others, its family, at once.
    """
    processes = [*([leader] if leader else []), *others]
    if leader is not None:
        _signal(leader, how)
        _wait([leader], patience_s)
    # All of them at once: a child that outlives its parent is of no use.
    survivors = [process for process in processes if _is_running(process)]
    for process in survivors:
        _signal(process, signal.SIGKILL)
    _wait(survivors, _KILL_WAIT_S)


def resident_bytes(processes: Iterable[psutil.Process]) -> int:
    """Memory of processes in bytes; shared memory counts for each."""
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            total += int(process.memory_info().rss)
    return total


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _is_running(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _signal(process: psutil.Process, number: int) -> None:
    with contextlib.suppress(psutil.Error):
        process.send_signal(number)


def _wait(processes: Sequence[psutil.Process], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while any(_is_running(process) for process in processes) and time.monotonic() < deadline:
        for process in processes:
            # Our own child stays a zombie until its exit status is taken.
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)
        time.sleep(0.02)
