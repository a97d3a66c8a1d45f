"""From sources to shards: every picture is decoded once before it is packed, and what fails is named with its reason.

JPEG, PNG and WebP bytes are kept as they are; other formats become PNG, and with `max_side` larger pictures are
shrunk and re-encoded as JPEG. Masks are brought to PNG with white = hole, their hole ratio beside them.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote_from_bytes

import numpy as np
from PIL import Image

from isnet.crops import resized
from isnet.errors import InputError
from isnet.images import decode_rgb
from jobs.sources import Skip, Source
from trainplane.data.manifest import Dataset, Skipped
from trainplane.data.pack import PackItem, pack
from trainplane.errors import UserError

# First bytes -> extension of formats whose bytes may go into a shard unchanged.
_KEPT = ((b"\xff\xd8\xff", "jpg"), (b"\x89PNG\r\n\x1a\n", "png"))


@dataclass(frozen=True)
class Recode:
    """What happens to a picture's bytes on the way. `kind`: photos or masks; `max_side` in pixels."""

    kind: str = "photos"
    max_side: int | None = None
    quality: int = 90

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise UserError(f"quality {self.quality} is out of range; need 1 to 100")


@dataclass
class _Checker:
    """Turns sources into pack items and remembers what was left out."""

    recode: Recode
    skipped: list[Skipped] = field(default_factory=list)
    used: int = 0

    def items(self, found: Iterable[Source | Skip]) -> Iterator[PackItem]:
        for entry in found:
            if isinstance(entry, Skip):
                self._skip(entry.file, entry.reason)
                continue
            try:
                item = prepare(entry.name, entry.read(), self.recode)
            except InputError as error:
                self._skip(entry.name, str(error))
                continue
            self.used += 1
            yield item

    def _skip(self, file: str, reason: str) -> None:
        self.skipped.append(Skipped(quote_from_bytes(os.fsencode(file)), reason))


def prepare(name: str, data: bytes, recode: Recode) -> PackItem:
    """One picture as it goes into a shard. Raises `InputError` with the reason where it cannot be used."""
    if recode.kind == "masks":
        return _mask(name, data)
    rgb = decode_rgb(data)
    height, width = rgb.shape[:2]
    extension = next((known for start, known in _KEPT if data.startswith(start)), None)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        extension = "webp"
    if recode.max_side is not None and max(height, width) > recode.max_side:
        scale = recode.max_side / max(height, width)
        rgb = resized(rgb, max(1, round(height * scale)), max(1, round(width * scale)))
        height, width = rgb.shape[:2]
        data, extension = _encoded(rgb, "JPEG", quality=recode.quality), "jpg"
    elif extension is None:
        data, extension = _encoded(rgb, "PNG", compress_level=6), "png"
    return PackItem(name, data, extension, {"height": height, "width": width})


def _mask(name: str, data: bytes) -> PackItem:
    from isnet.mask_files import read_mask

    hole = read_mask(data).hole
    pixels = np.where(hole, np.uint8(255), np.uint8(0))
    extra = {"height": hole.shape[0], "width": hole.shape[1], "hole_ratio": round(float(hole.mean()), 6)}
    return PackItem(name, _encoded(pixels, "PNG", optimize=True), "png", extra)


def _encoded(pixels: np.ndarray[Any, Any], kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def pack_pictures(
    found: Iterable[Source | Skip],
    destination: str,
    *,
    name: str,
    split: str,
    shard_bytes: int,
    recode: Recode = Recode(),
    replace: bool = False,
    minimum: int = 1,
) -> Dataset:
    """Check and pack. Raises `UserError` where fewer than `minimum` pictures can be used; then there is no manifest."""
    checker = _Checker(recode)

    def items() -> Iterator[PackItem]:
        yield from checker.items(found)
        if checker.used < minimum:
            raise UserError(f"{_usable(checker.used)}{_why(checker.skipped)}, need at least {minimum}; add photos")

    how = {"max_side": recode.max_side, "quality": recode.quality if recode.max_side else None, "kind": recode.kind}
    return pack(
        items(),
        destination,
        name=name,
        split=split,
        skipped=checker.skipped,
        how=how,
        shard_bytes=shard_bytes,
        replace=replace,
    )


def _usable(count: int) -> str:
    return f"{count} usable pictures found" if count else "no usable picture found"


def _why(skipped: list[Skipped]) -> str:
    if not skipped:
        return ""
    return f" ({len(skipped)} files were left out, the first: {skipped[0].file}: {skipped[0].reason})"
