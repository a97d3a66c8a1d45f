"""Lease in a store: one holder among many hosts.

A holder changes the object at least every third of its term. Others take it over when they have seen the same object
for a whole term by their own clock: clocks of two hosts are never compared. A holder that was cut off for longer loses
it and learns so at its next renewal. What it did meanwhile must be harmless when done twice.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from trainplane.storage.store import Entry, NotFound, Store

TERM_S = 60.0
_FREE = b"free"


class StoreLease:
    """Lease under one key; `hold` takes and renews it."""

    def __init__(
        self, store: Store, key: str, *, term_s: float = TERM_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store, self._key, self._term_s, self._clock = store, key, term_s, clock
        self._owner = secrets.token_hex(8)
        self._ours = ""
        self._seen, self._since = "", 0.0

    @property
    def renew_every_s(self) -> float:
        """Longest pause between two calls of `hold`."""
        return self._term_s / 3

    def hold(self) -> bool:
        """Takes or renews the lease; False while another has it.

        Raises `StorageError` where the store does not answer; then the lease may be lost, too.
        """
        entry = self._entry()
        if entry is None:
            return self._is_ours_after(self._store.create(self._key, self._text()))
        if entry.stamp == self._ours or self._is_free(entry) or self._is_expired(entry):
            return self._is_ours_after(self._store.replace(self._key, self._text(), stamp=entry.stamp))
        self._ours = ""
        return False

    def release(self) -> None:
        """Gives the lease back, if it is still ours."""
        if self._ours:
            self._store.replace(self._key, _FREE, stamp=self._ours)
            self._ours = ""

    def _text(self) -> bytes:
        # A new text each time, so that the stamp changes, which may be a digest of the content.
        return f"{self._owner} {secrets.token_hex(8)}".encode()

    def _entry(self) -> Entry | None:
        return next((entry for entry in self._store.list(self._key) if entry.key == self._key), None)

    def _is_ours_after(self, has_written: bool) -> bool:
        """Looks who has it after a write; remembers our stamp."""
        entry = self._entry() if has_written else None
        is_ours = entry is not None and self._content().startswith(self._owner.encode())
        self._ours = entry.stamp if entry is not None and is_ours else ""
        return is_ours

    def _is_free(self, entry: Entry) -> bool:
        return entry.size == len(_FREE) and self._content() == _FREE

    def _content(self) -> bytes:
        try:
            return self._store.read(self._key)
        except NotFound:
            return b""

    def _is_expired(self, entry: Entry) -> bool:
        """True if this object is unchanged for the whole term."""
        if self._seen != entry.stamp:
            self._seen, self._since = entry.stamp, self._clock()
        return self._clock() - self._since >= self._term_s
