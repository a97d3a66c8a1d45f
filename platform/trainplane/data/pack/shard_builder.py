"""Builds a shard and its rows of the index.

A shard is an ordinary tar. Pure: the same items give the same bytes.
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
_KEY_TEXT = 40  # characters of the path that stay readable in a key
KEY_HASH = 16  # hexadecimal digits that make a key unique


@dataclass(frozen=True)
class PackItem:
    """A sample ready to be stored, a `Packable` without work."""

    source: str  # original path
    data: bytes
    extension: str  # of the tar member, such as "jpg"
    # More fields for the sample's JSON, beside the path: numbers, texts, lists.
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """Text that stands for path, content and fields."""
        return f"{self.source}\n{hashlib.sha256(self.data).hexdigest()}\n{self.extension}\n{dict(self.extra)}"

    @property
    def size(self) -> int:
        """Bytes of the content."""
        return len(self.data)

    def item(self) -> PackItem:
        """Returns itself."""
        return self

    def portable(self) -> PackItem:
        """Returns itself."""
        return self


@dataclass(frozen=True)
class BuiltShard:
    """A shard's bytes, manifest entry and rows of the index."""

    shard: Shard
    rows: tuple[Row, ...]
    data: bytes


def build_shard(number: int, items: Sequence[PackItem]) -> BuiltShard:
    """Builds a shard of `KEY.EXT` and `KEY.json`, alphabetically."""
    file = io.BytesIO()
    rows = []
    # webdataset's writer makes ustar headers (no pax, whose extra headers cost 2 KiB a sample). Its arguments fix
    # everything that would differ between runs and machines: time, user, group.
    writer = webdataset.TarWriter(file, user="", group="", mtime=0, encoder=False, compress=False)
    at = 0
    for item in items:
        members = sample_members(item)
        key = members.pop("__key__")
        # The writer sorts the members too, so offsets can be computed without reading the tar again.
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


def sample_members(item: PackItem) -> dict[str, Any]:
    """Returns the members of a sample by extension, and `__key__`."""
    if not _EXTENSION.fullmatch(item.extension) or item.extension == "json":
        raise UserError(f"{item.source!r}: {item.extension!r} is no extension of a sample; need one such as 'jpg'")
    if "path" in item.extra:
        raise ValueError("extra['path'] is reserved for the original path")
    described = canonical_json({**item.extra, "path": percent_encoded(item.source)})
    return {"__key__": key_of(item.source), item.extension: item.data, "json": described}


def tar_bytes(item: PackItem) -> int:
    """Returns the bytes that a sample takes in its shard."""
    return sum(BLOCK_BYTES + padded(len(data)) for name, data in sample_members(item).items() if name != "__key__")


def key_of(source: str) -> str:
    """Returns the sample key of an original path."""
    # It is the end of the path, made safe for tars and shells, and a hash of all of it.
    text = re.sub(r"[^A-Za-z0-9]+", "_", os.path.splitext(source)[0])[-_KEY_TEXT:].strip("_")
    return f"{text or 'sample'}-{hashlib.sha256(_bytes_of(source)).hexdigest()[:KEY_HASH]}"


def percent_encoded(path: str) -> str:
    """Encodes the bytes of any file name for JSON."""
    return quote_from_bytes(_bytes_of(path), safe="/")


def _bytes_of(path: str) -> bytes:
    # Turns Python's text for a file name that is no UTF-8 back into the bytes on disk, in any locale.
    return path.encode("utf-8", "surrogateescape")
