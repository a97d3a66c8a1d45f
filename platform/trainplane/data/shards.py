"""PURE: from pictures' bytes to the bytes of one shard, an ordinary tar, and its rows of the index.

Same items, same bytes. Not covered: which items share a shard (cut.py), where shards are stored (destination.py).
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote_from_bytes

import webdataset

from trainplane.config.canonical import canonical_json
from trainplane.data.damage import BLOCK_BYTES, padded
from trainplane.data.index import Member, Row
from trainplane.data.shard import Shard, shard_name
from trainplane.errors import UserError

_EXTENSION = re.compile(r"[a-z0-9]{1,8}")
_KEY_TEXT = 40  # characters of the path that a key keeps for people
KEY_HASH = 16  # hexadecimal digits that make it unique


@dataclass(frozen=True)
class PackItem:
    """One picture as it shall be stored. `extra` goes into its JSON beside the path: numbers, texts, lists.

    It is a `Packable` (pack.py), the one that has nothing left to do.
    """

    source: str
    data: bytes
    extension: str
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        return f"{self.source}\n{hashlib.sha256(self.data).hexdigest()}\n{self.extension}\n{dict(self.extra)}"

    @property
    def size(self) -> int:
        return len(self.data)

    def item(self) -> PackItem:
        return self

    def portable(self) -> PackItem:
        return self


@dataclass(frozen=True)
class BuiltShard:
    """A shard, what the manifest says of it, and its rows of the index."""

    shard: Shard
    rows: tuple[Row, ...]
    data: bytes


def build_shard(number: int, items: Sequence[PackItem]) -> BuiltShard:
    """The shard of these items. Tar members are `KEY.EXT` and `KEY.json`, alphabetically."""
    file = io.BytesIO()
    rows = []
    # webdataset's writer makes the ustar headers (no pax, whose extra headers cost 2 KiB a sample) and takes what
    # would differ between runs and machines as arguments: time, user, group.
    writer = webdataset.TarWriter(file, user="", group="", mtime=0, encoder=False, compress=False)
    at = 0
    for item in items:
        members = sample_of(item)
        key = members.pop("__key__")
        located = []
        for extension, data in sorted(members.items()):
            located.append(Member(extension, at + BLOCK_BYTES, len(data), zlib.crc32(data)))
            at += BLOCK_BYTES + padded(len(data))
        writer.write({"__key__": key, **members})
        rows.append(Row(key, tuple(located)))
    writer.close()
    data = file.getvalue()
    shard = Shard(shard_name(number), len(data), len(rows), hashlib.sha256(data).hexdigest())
    return BuiltShard(shard, tuple(rows), data)


def sample_of(item: PackItem) -> dict[str, Any]:
    """The members of one sample by extension, and `__key__`."""
    if not _EXTENSION.fullmatch(item.extension) or item.extension == "json":
        raise UserError(f"{item.source!r}: {item.extension!r} is no picture's extension; need one such as 'jpg'")
    if "path" in item.extra:
        raise ValueError("extra['path'] is taken by the original path")
    described = canonical_json({**item.extra, "path": percent_encoded(item.source)})
    return {"__key__": key_of(item.source), item.extension: item.data, "json": described}


def footprint(item: PackItem) -> int:
    """Bytes that the sample takes in its shard."""
    return sum(BLOCK_BYTES + padded(len(data)) for name, data in sample_of(item).items() if name != "__key__")


def key_of(source: str) -> str:
    """The sample key of an original path: its end, made safe for tars and shells, and a hash of all of it."""
    text = re.sub(r"[^A-Za-z0-9]+", "_", os.path.splitext(source)[0])[-_KEY_TEXT:].strip("_")
    return f"{text or 'sample'}-{hashlib.sha256(_bytes_of(source)).hexdigest()[:KEY_HASH]}"


def percent_encoded(path: str) -> str:
    """A path as it is written into JSON: the bytes of any file name survive, whatever their encoding."""
    return quote_from_bytes(_bytes_of(path), safe="/")


def _bytes_of(path: str) -> bytes:
    # What Python makes of a file name that is no UTF-8 turns back into the bytes on disk, in any locale.
    return path.encode("utf-8", "surrogateescape")
