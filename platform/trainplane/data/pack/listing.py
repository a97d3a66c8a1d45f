"""Listing of entries, read once, with digests of its beginning.

The digests are a chain, so one comparison shows that two packings have read the same entries up to a position.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Collection, Iterable

from trainplane.data.manifest import SkippedFile
from trainplane.data.pack.executor import Entry

_UNIT_ENTRIES = 64


class Listing:
    """Entries of a packing, read up to `position`."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._source = iter(entries)
        self._ahead: deque[Entry] = deque()
        self._digests = {0: b""}
        self.position = 0

    def digest_at(self, position: int) -> str:
        """Returns the digest of the entries before a position."""
        return self._digests[position].hex()

    def drop_digests_before(self, position: int) -> None:
        """Frees the digests of earlier positions."""
        for earlier in [key for key in self._digests if key < position]:
            del self._digests[earlier]

    def next_unit(self, *, max_bytes: int, stops: Collection[int]) -> list[Entry]:
        """Returns the next entries; empty at the end.

        A unit has about `max_bytes`, and does not go beyond one of the positions `stops`.
        """
        entries: list[Entry] = []
        size = 0
        while len(entries) < _UNIT_ENTRIES and size < max_bytes and (not entries or self.position not in stops):
            entry = self._next()
            if entry is None:
                break
            if isinstance(entry, SkippedFile):
                entries.append(entry)
            else:
                # Make it portable now: a stream that can only be read forwards is at this entry.
                entries.append(entry.portable())
                size += entry.size
        return entries

    def skip_to(self, position: int, digest: str) -> bool:
        """Advances to a position if its digest matches, else stays."""
        start = self.position
        skipped: list[Entry] = []
        while self.position < position and (entry := self._next()) is not None:
            skipped.append(entry)
        if self.position == position and self.digest_at(position) == digest:
            self.drop_digests_before(position)
            return True
        # Put the entries back, in their order.
        self._ahead.extendleft(reversed(skipped))
        self.position = start
        return False

    def _next(self) -> Entry | None:
        entry = self._ahead.popleft() if self._ahead else next(self._source, None)
        if entry is not None:
            text = f"{entry.file}\n{entry.reason}" if isinstance(entry, SkippedFile) else entry.identity
            before = self._digests[self.position]
            self.position += 1
            self._digests[self.position] = hashlib.sha256(before + text.encode("utf-8", "surrogateescape")).digest()
        return entry
