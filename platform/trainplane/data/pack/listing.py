"""A listing of entries read once, in order: where it has come to, and a digest of what went by.

What a packing makes of a listing depends on all of it up to the place in question, so one chain of digests tells
whether two packings have seen the same.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Collection, Iterable

from trainplane.data.manifest import Skipped
from trainplane.data.pack.executor import Entry

_UNIT_ENTRIES = 64


class Listing:
    """`at` entries have been taken. `digest_at` says what went by, of places that were not forgotten."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._source = iter(entries)
        self._ahead: deque[Entry] = deque()
        self._digests = {0: b""}
        self.at = 0

    def digest_at(self, at: int) -> str:
        """Digest of the entries before place `at`."""
        return self._digests[at].hex()

    def forget(self, before: int) -> None:
        """Digests of places before this one are not asked for any more."""
        for at in [at for at in self._digests if at < before]:
            del self._digests[at]

    def unit(self, *, most_bytes: int, stops: Collection[int]) -> list[Entry]:
        """The next entries, about `most_bytes` together, not beyond the next place in `stops`; empty at the end."""
        taken: list[Entry] = []
        size = 0
        while len(taken) < _UNIT_ENTRIES and size < most_bytes and (not taken or self.at not in stops):
            entry = self._next()
            if entry is None:
                break
            if isinstance(entry, Skipped):
                taken.append(entry)
            else:
                # Now, while a stream that can only be read forwards stands at it.
                taken.append(entry.portable())
                size += entry.size
        return taken

    def pass_over(self, stop: int, digest: str) -> bool:
        """Go on to place `stop` if the digest is `digest` there; else stay."""
        start = self.at
        passed: list[Entry] = []
        while self.at < stop and (entry := self._next()) is not None:
            passed.append(entry)
        if self.at == stop and self.digest_at(stop) == digest:
            self.forget(stop)
            return True
        self._ahead.extendleft(reversed(passed))
        self.at = start
        return False

    def _next(self) -> Entry | None:
        entry = self._ahead.popleft() if self._ahead else next(self._source, None)
        if entry is not None:
            text = f"{entry.file}\n{entry.reason}" if isinstance(entry, Skipped) else entry.identity
            before = self._digests[self.at]
            self.at += 1
            self._digests[self.at] = hashlib.sha256(before + text.encode("utf-8", "surrogateescape")).digest()
        return entry
