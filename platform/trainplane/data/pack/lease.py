"""Lease of a destination, for one packing at a time.

The lease is a small object beside the shards, `packing.claim-000000.json`, which its owner rewrites every few seconds.
Taking over means creating the next number, which the store allows to one process only. Before each write an owner looks
for a higher number, because it may have been suspended. An owner is gone if it wrote that it ended; or ran on this
machine and its process does not exist; or its object did not change while it was watched (no clocks are compared).
Objects of other programs are left alone.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import socket
import threading
import time
from dataclasses import asdict, dataclass

from trainplane.config.canonical import canonical_json
from trainplane.errors import UserError
from trainplane.locks import ProcessId, machine_id
from trainplane.storage import NotFound, StorageError, Store
from trainplane.store_wait import STORE_WAITS

log = logging.getLogger(__name__)

PREFIX = "packing."
HEARTBEAT_S = 5.0

_LEASE = f"{PREFIX}claim-"
_LEASE_KEY = re.compile(rf"{re.escape(_LEASE)}\d{{6,}}\.json")
_NOTE_KEY = re.compile(rf"{re.escape(PREFIX)}(claim|shard)-\d{{6,}}\.json")
# Without a heartbeat, from a process that cannot be looked up: longer than its pauses when the store comes back.
_PATIENCE_S = 30.0
_SLOW_S = 5.0  # an answer that took longer came from a store that had been away


@dataclass(frozen=True)
class Owner:
    """Content of a lease: the process that packs."""

    nonce: str
    host: str  # for people
    machine: str  # empty where processes cannot be looked up by number
    pid: int
    born: float  # start of the process, in seconds since the epoch
    beats: int = 0  # heartbeats so far
    ended: bool = False  # without finishing

    @classmethod
    def this_process(cls) -> Owner:
        """Returns this process as an owner."""
        process = ProcessId.here()
        return cls(secrets.token_hex(8), socket.gethostname(), machine_id(), process.pid, process.born)

    def is_gone(self) -> bool | None:
        """Tells if the owner ended; None where that is unknown."""
        if self.ended:
            return True
        if not self.machine or self.machine != machine_id():
            return None
        return not ProcessId.born_at(self.pid, self.born).is_alive()


def is_note(key: str) -> bool:
    """Tells if a packing keeps notes under this key."""
    # Other objects called `packing.…` belong to other programs.
    return bool(_NOTE_KEY.fullmatch(key))


@dataclass(frozen=True)
class Fence:
    """Number of a lease, for all processes that write."""

    store: Store
    number: int
    nonce: str

    def check(self) -> None:
        """Raises `UserError` unless this is still the latest lease.

        Asks the store. The successor may have ended already, and then has removed all leases.
        """
        number, owner = latest_lease(self.store) or (-1, None)
        if number != self.number or owner is None or owner.nonce != self.nonce:
            raise _refusal(self.store, "took over while this one did not respond")


class PackLease:
    """Lease of a destination by this process."""

    def __init__(self, store: Store, *, patience_s: float = _PATIENCE_S) -> None:
        self._store = store
        self._patience_s = patience_s
        self._owner: Owner | None = None
        self.fence: Fence | None = None  # while this process has the lease
        self.is_lost = False  # another process took over
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.follows_unfinished = False  # the packing before this one did not finish

    def acquire(self) -> None:
        """Acquires the lease, once; `UserError` while another process packs."""
        if self._owner is not None:
            return
        latest = latest_lease(self._store)
        if latest is not None:
            self._refuse_while_alive(*latest)
        number = 0 if latest is None else latest[0] + 1
        owner = Owner.this_process()
        if not self._store.create(_key(number), _bytes(owner)):
            raise _refusal(self._store, "started at the same moment")
        self._owner, self.follows_unfinished = owner, latest is not None
        self.fence = Fence(self._store, number, owner.nonce)
        self._thread = threading.Thread(target=self._renew, name="packing", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises `UserError` if another process took over."""
        if self.is_lost:
            raise _refusal(self._store, "took over while this one did not respond")

    def release(self, *, finished: bool) -> None:
        """Releases the lease and, if finished, removes all notes."""
        # The lease of an unfinished packing stays. It tells the next process that notes and shards are left.
        if self._owner is None:
            return
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        try:
            with STORE_WAITS.obeying(lambda: not finished):
                self._end(finished=finished)
        except StorageError as error:
            if finished:
                raise
            # The error that stopped the packing is being raised, and is often the same. The next process will see that
            # this one is gone.
            log.info("%s", error)
        self._owner = None

    def _end(self, *, finished: bool) -> None:
        # A lost lease belongs to another process, and so do the notes.
        if self.is_lost or not self._is_ours():
            return
        if not finished:
            self._write(self._stamp(), ended=True)
            return
        for key in [entry.key for entry in self._store.list(PREFIX) if is_note(entry.key)]:
            self._store.delete(key)

    def _is_ours(self) -> bool:
        assert self.fence is not None
        try:
            self.fence.check()
        except UserError:
            self.is_lost = True
        return not self.is_lost

    def _renew(self) -> None:
        STORE_WAITS.obey(self._stop.is_set)
        while not self._stop.wait(HEARTBEAT_S):
            try:
                # The stamp first: what changes after the look at the leases fails the write.
                stamp = self._stamp()
                if not self._is_ours() or not self._write(stamp):
                    self.is_lost = True
                    return
            except StorageError as error:
                # The packing meets the same store; it decides about giving up.
                log.info("%s", error)

    def _stamp(self) -> str:
        assert self.fence is not None
        return next((entry.stamp for entry in self._store.list(_key(self.fence.number))), "")

    def _write(self, stamp: str, *, ended: bool = False) -> bool:
        # False where the lease is gone: a process that was suspended here must not make it anew.
        assert self._owner is not None
        assert self.fence is not None
        self._owner = Owner(**{**asdict(self._owner), "beats": self._owner.beats + 1, "ended": ended})
        return self._store.replace(_key(self.fence.number), _bytes(self._owner), stamp=stamp)

    def _refuse_while_alive(self, number: int, owner: Owner | None) -> None:
        if owner is None:
            return
        is_gone = owner.is_gone()
        # A process of another machine: watch its heartbeat.
        if is_gone is None:
            log.warning(
                "%s: process %d on %s was packing here; waiting %.0f s for its next heartbeat",
                self._store.address, owner.pid, owner.host, self._patience_s,
            )  # fmt: skip
            is_gone = self._is_silent(number, owner)
        if not is_gone:
            raise _refusal(self._store, f"is running there (process {owner.pid} on {owner.host})")

    def _is_silent(self, number: int, owner: Owner) -> bool:
        """Watches a lease until its next heartbeat, or in vain."""
        since = time.monotonic()
        while time.monotonic() - since < self._patience_s:
            time.sleep(min(HEARTBEAT_S, self._patience_s))
            before = time.monotonic()
            if latest_lease(self._store) != (number, owner):
                return False
            # While the store is away the owner cannot renew its lease: only time in which it answers counts.
            if time.monotonic() - before > _SLOW_S:
                since = time.monotonic()
        return True


def latest_lease(store: Store) -> tuple[int, Owner | None] | None:
    """Returns the latest lease: number, and owner unless unreadable."""
    keys = [entry.key for entry in store.list(_LEASE) if _LEASE_KEY.fullmatch(entry.key)]
    if not keys:
        return None
    try:
        return _number(keys[-1]), Owner(**json.loads(store.read(keys[-1])))
    except (NotFound, ValueError, TypeError):
        return _number(keys[-1]), None


def _refusal(store: Store, reason: str) -> UserError:
    return UserError(f"{store.address}: another packing {reason}; let it finish or end it, or give another destination")


def _key(number: int) -> str:
    return f"{_LEASE}{number:06d}.json"


def _number(key: str) -> int:
    return int(key.removeprefix(_LEASE).removesuffix(".json"))


def _bytes(owner: Owner) -> bytes:
    return canonical_json(asdict(owner))
