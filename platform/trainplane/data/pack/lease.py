"""One process at a time packs into a place, and the next one can tell whether the last is dead.

The claim is a small object beside the shards, `packing.claim-000000.json`, rewritten every few seconds while its owner
lives. Taking over means creating the next number, which the store lets one process do only; an owner that was merely
asleep finds the higher number and stops. Dead is: the owner said that it ended, or it ran on this machine and its
process is gone, or its object was watched for a while and did not change (no clocks are compared). Not covered: other
programs that write to the same place; what they do there is left alone.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from trainplane.config.canonical import canonical_json
from trainplane.errors import UserError
from trainplane.storage import NotFound, StorageError, Store

log = logging.getLogger(__name__)

PREFIX = "packing."
_CLAIM = f"{PREFIX}claim-"
_CLAIM_KEY = re.compile(rf"{re.escape(_CLAIM)}\d{{6,}}\.json")
_NOTE_KEY = re.compile(rf"{re.escape(PREFIX)}(claim|shard)-\d{{6,}}\.json")
_BEAT_S = 5.0
_PATIENCE_S = 20.0  # without a beat, from a process that cannot be looked up


@dataclass(frozen=True)
class Owner:
    """Who claims a place. `machine` is empty where processes cannot be looked up by number; `beats` counts up."""

    nonce: str
    host: str
    machine: str
    pid: int
    born: float
    beats: int = 0
    ended: bool = False

    @classmethod
    def this_process(cls) -> Owner:
        born = psutil.Process().create_time()
        return cls(secrets.token_hex(8), socket.gethostname(), this_machine(), os.getpid(), born)


def this_machine() -> str:
    """The running system and its namespace of process numbers, as one text; empty where it cannot be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def is_note(key: str) -> bool:
    """PURE: whether a packing keeps its notes under this key; whatever else is called `packing.…` is somebody's."""
    return bool(_NOTE_KEY.fullmatch(key))


def is_gone(owner: Owner, *, machine: str, born: Callable[[int], float | None]) -> bool | None:
    """PURE: whether the owner is surely dead, surely alive (False), or only to be told by watching (None).

    born -- when the process of a number was started, None where there is none; numbers are given out again
    """
    if owner.ended:
        return True
    if not machine or owner.machine != machine:
        return None
    found = born(owner.pid)
    return found is None or abs(found - owner.born) > 1.0


def _born(pid: int) -> float | None:
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.NoSuchProcess:
        return None


class Claim:
    """This process's claim to a place: taken before the first write, kept alive by a thread, given back at the end."""

    def __init__(self, store: Store, *, patience_s: float = _PATIENCE_S) -> None:
        self._store = store
        self._patience_s = patience_s
        self._owner: Owner | None = None
        self._number = -1
        self._lost = False
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self.follows_unfinished = False

    def take(self) -> None:
        """Claim the place, once; a `UserError` where another process is at work there."""
        if self._owner is not None:
            return
        last = self._newest()
        if last is not None:
            self._refuse_while_alive(*last)
        number = 0 if last is None else last[0] + 1
        owner = Owner.this_process()
        if not self._store.create(_key(number), _bytes(owner)):
            raise self._taken("started at the same moment")
        self._owner, self._number, self.follows_unfinished = owner, number, last is not None
        self._thread = threading.Thread(target=self._beat, name="packing", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise where another process took the place over."""
        if self._lost:
            raise self._taken("took it over while this one did not answer")

    def give_back(self, *, finished: bool) -> None:
        """End the claim. One that is not finished stays as a note to the next process that something is left here."""
        if self._owner is None:
            return
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        if finished and not self._lost:
            for key in [entry.key for entry in self._store.list(PREFIX) if is_note(entry.key)]:
                self._store.delete(key)
        elif not self._lost:
            try:
                self._write(ended=True)
            except StorageError as error:
                # What packing stopped at is on its way up, and often the same; the next one finds the process gone.
                log.info("%s", error)
        self._owner = None

    def _beat(self) -> None:
        while not self._over.wait(_BEAT_S):
            try:
                newest = self._newest()
                if newest is not None and newest[0] > self._number:
                    self._lost = True
                    return
                self._write()
            except StorageError as error:
                # Packing meets the same store and has the say about giving up.
                log.info("%s", error)

    def _write(self, *, ended: bool = False) -> None:
        assert self._owner is not None
        self._owner = Owner(**{**asdict(self._owner), "beats": self._owner.beats + 1, "ended": ended})
        self._store.write(_key(self._number), _bytes(self._owner))

    def _newest(self) -> tuple[int, Owner | None] | None:
        """Number and owner of the newest claim; an owner that cannot be read is None."""
        keys = [entry.key for entry in self._store.list(_CLAIM) if _CLAIM_KEY.fullmatch(entry.key)]
        if not keys:
            return None
        try:
            return _number(keys[-1]), Owner(**json.loads(self._store.read(keys[-1])))
        except (NotFound, ValueError, TypeError):
            return _number(keys[-1]), None

    def _refuse_while_alive(self, number: int, owner: Owner | None) -> None:
        if owner is None:
            return
        gone = is_gone(owner, machine=this_machine(), born=_born)
        if gone is None:
            log.warning(
                "%s: process %d on %s was packing here; watching for %.0f s whether it still is",
                self._store.address, owner.pid, owner.host, self._patience_s,
            )  # fmt: skip
            time.sleep(self._patience_s)
            gone = self._newest() == (number, owner)
        if not gone:
            raise self._taken(f"is at work there (process {owner.pid} on {owner.host})")

    def _taken(self, what: str) -> UserError:
        return UserError(
            f"{self._store.address}: another packing {what}; let it finish or end it, or give another destination"
        )


def _key(number: int) -> str:
    return f"{_CLAIM}{number:06d}.json"


def _number(key: str) -> int:
    return int(key.removeprefix(_CLAIM).removesuffix(".json"))


def _bytes(owner: Owner) -> bytes:
    return canonical_json(asdict(owner))
