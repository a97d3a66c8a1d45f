"""Millions of file names in little memory."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

_BLOCK = 4096


class Names:
    """File names in their order, compressed in blocks.

    A name is bytes without a zero, as of every file. Names that are sorted take about a tenth of their length.
    """

    def __init__(self) -> None:
        self._blocks: list[bytes] = []
        self._last: list[bytes] = []

    def append(self, name: bytes) -> None:
        """Adds a name at the end."""
        self._last.append(name)
        if len(self._last) == _BLOCK:
            self._blocks.append(zlib.compress(b"\0".join(self._last), 1))
            self._last = []

    def __iter__(self) -> Iterator[bytes]:
        for block in self._blocks:
            yield from zlib.decompress(block).split(b"\0")
        yield from self._last
