"""From sources to shards: every picture is decoded once before it is packed, and what fails is named with its reason.

JPEG, PNG and WebP bytes are kept as they are; other formats become PNG, and with `max_side` larger pictures are
shrunk and re-encoded as JPEG. Masks are brought to PNG with white = hole, their hole ratio beside them.
A `Picture` can be made ready in any process.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal
from urllib.parse import quote_from_bytes

import numpy as np
from PIL import Image

from isnet.errors import InputError
from isnet.images.crops import resized
from isnet.images.decode import decode_rgb
from jobs.data.sources import Skip, Source
from jobs.data.split import Side
from trainplane.data.manifest import Dataset, Skipped
from trainplane.data.pack.executor import Alone, Crew
from trainplane.data.pack.pack import pack
from trainplane.data.shards import PackItem
from trainplane.errors import UserError

# First bytes -> extension of formats whose bytes may go into a shard unchanged.
_KEPT = ((b"\xff\xd8\xff", "jpg"), (b"\x89PNG\r\n\x1a\n", "png"))


@dataclass(frozen=True)
class Recode:
    """What happens to a picture's bytes on the way. `kind`: photos or masks; `max_side` in pixels; `hole`: its colour
    in the masks as they come."""

    kind: str = "photos"
    max_side: int | None = None
    quality: int = 90
    hole: Literal["white", "black"] = "white"

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise UserError(f"quality {self.quality} is out of range; need 1 to 100")
        if self.kind == "masks" and self.max_side is not None:
            raise UserError("masks are not shrunk: their edges would blur; leave --max-side out")
        if self.kind != "masks" and self.hole != "white":
            raise UserError("photos have no hole; give --black-is-hole with --kind masks only")

    def described(self) -> dict[str, Any]:
        """For the manifest."""
        photos = {"max_side": self.max_side, "quality": self.quality if self.max_side else None, "kind": self.kind}
        return photos | ({"hole": self.hole} if self.hole != "white" else {})


@dataclass(frozen=True)
class Picture:
    """A source on its way into a shard: what the packer asks of an entry of its listing."""

    source: Source
    recode: Recode
    side: Side | None = None

    @property
    def identity(self) -> str:
        return f"{self.source.name}\n{self.source.stamp}\n{dict(self.source.about)}"

    @property
    def size(self) -> int:
        return self.source.size

    def portable(self) -> Picture:
        return replace(self, source=self.source.portable())

    def item(self) -> PackItem | Skipped | None:
        """The picture as it goes into a shard, why it does not, or None where it belongs to another side."""
        try:
            data = self.source.read()
            if self.side is not None and not self.side.has(data):
                return None
            return prepare(self.source.name, data, self.recode, about=self.source.about)
        except InputError as error:
            return _skipped(self.source.name, str(error))


def _skipped(file: str, reason: str) -> Skipped:
    return Skipped(quote_from_bytes(os.fsencode(file)), reason)


def prepare(name: str, data: bytes, recode: Recode, *, about: Mapping[str, Any]) -> PackItem:
    """One picture as it goes into a shard. Raises `InputError` with the reason where it cannot be used."""
    if recode.kind == "masks":
        return _mask(name, data, recode, about)
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
    return PackItem(name, data, extension, {**about, "height": height, "width": width})


def _mask(name: str, data: bytes, recode: Recode, about: Mapping[str, Any]) -> PackItem:
    from isnet.mask_files import MaskRules, read_mask

    hole = read_mask(data, rules=MaskRules(hole=recode.hole)).hole
    pixels = np.where(hole, np.uint8(255), np.uint8(0))
    extra = {"height": hole.shape[0], "width": hole.shape[1], "hole_ratio": round(float(hole.mean()), 6)}
    return PackItem(name, _encoded(pixels, "PNG", optimize=True), "png", {**about, **extra})


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
    side: Side | None = None,
    how: Mapping[str, Any] = MappingProxyType({}),
    replace: bool = False,
    crew: Crew | None = None,
) -> Dataset:
    """Check and pack. Raises `UserError` where no picture can be used; then there is no manifest.

    side -- pack the pictures of this side alone
    how  -- for the manifest, beside what `recode` says
    """
    return pack(
        (
            _skipped(entry.file, entry.reason) if isinstance(entry, Skip) else Picture(entry, recode, side)
            for entry in found
        ),
        destination,
        name=name,
        split=split,
        how={**recode.described(), **how},
        shard_bytes=shard_bytes,
        replace=replace,
        crew=crew or Alone(),
    )
