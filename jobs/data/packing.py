"""Packs pictures and masks into shards.

Every picture is decoded once before it is packed; a picture that cannot be decoded is skipped with a reason. JPEG, PNG
and WebP bytes are kept; other formats become PNG, and with `max_side` larger pictures are shrunk and encoded as JPEG.
Masks become PNG with white = hole. Any process can prepare a `PictureEntry`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal
from urllib.parse import quote_from_bytes

import numpy as np
from PIL import Image

from isnet.errors import InputError
from isnet.images.crops import resize
from isnet.images.decode import decode_rgb
from jobs.cli.format import quantity
from jobs.data.sources import PictureSource, Skip
from jobs.data.split import Side
from trainplane.data.manifest import Dataset, SkippedFile
from trainplane.data.pack.executor import Entry, LocalExecutor, PackExecutor
from trainplane.data.pack.pack import NothingNew, pack
from trainplane.data.pack.shard_builder import PackItem
from trainplane.errors import UserError

# First bytes -> extension of formats whose bytes are packed unchanged.
_KEPT = ((b"\xff\xd8\xff", "jpg"), (b"\x89PNG\r\n\x1a\n", "png"))


@dataclass(frozen=True)
class Recode:
    """Conversion of pictures while they are packed."""

    kind: str = "photos"  # or "masks"
    max_side: int | None = None  # photos with a longer side are shrunk to it, pixels
    quality: int = 90  # of the JPEG of a shrunk photo, 1 to 100
    hole: Literal["white", "black"] = "white"  # colour of the hole in the source's masks

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise UserError(f"quality {self.quality} is out of range; need 1 to 100")
        if self.kind == "masks" and self.max_side is not None:
            raise UserError("masks are not shrunk, because their edges would blur; leave --max-side out")
        if self.kind != "masks" and self.hole != "white":
            raise UserError("photos have no hole; give --black-is-hole with --kind masks only")

    def described(self) -> dict[str, Any]:
        """Returns the conversion as the manifest has it."""
        photos = {"max_side": self.max_side, "quality": self.quality if self.max_side else None, "kind": self.kind}
        return photos | ({"hole": self.hole} if self.hole != "white" else {})


@dataclass(frozen=True)
class PictureEntry:
    """Picture in the packer's listing."""

    source: PictureSource
    recode: Recode
    side: Side | None = None  # leaves out pictures of other sides; None takes all

    @property
    def identity(self) -> str:
        """Text that changes when the packed sample would change."""
        return f"{self.source.name}\n{self.source.stamp}\n{dict(self.source.about)}"

    @property
    def size(self) -> int:
        """Approximate number of bytes to read."""
        return self.source.size

    def portable(self) -> PictureEntry:
        """Returns a copy that another process can read."""
        return replace(self, source=self.source.portable())

    def item(self) -> PackItem | SkippedFile | None:
        """Prepares the sample; None for a picture of another side."""
        # A source that cannot be read is skipped like a picture that cannot be decoded.
        try:
            data = self.source.read()
            if self.side is not None and not self.side.contains(data):
                return None
            return prepare(self.source.name, data, self.recode, about=self.source.about)
        except InputError as error:
            return skipped_file(self.source.name, str(error))


def skipped_file(file: str, reason: str) -> SkippedFile:
    """Makes the manifest's entry of a skipped file."""
    return SkippedFile(quote_from_bytes(os.fsencode(file)), reason)


def prepare(name: str, data: bytes, recode: Recode, *, about: Mapping[str, Any]) -> PackItem:
    """Decodes a picture and converts it where needed.

    Args:
        name: original path, stored in the sample's JSON.
        data: encoded picture.
        recode: conversion.
        about: labels for the sample's JSON.
    """
    if recode.kind == "masks":
        return _mask(name, data, recode, about)
    rgb = decode_rgb(data)
    height, width = rgb.shape[:2]
    # Bytes of these formats are packed as they are.
    extension = next((suffix for start, suffix in _KEPT if data.startswith(start)), None)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        extension = "webp"
    if recode.max_side is not None and max(height, width) > recode.max_side:
        # Shrunk pictures are always JPEG; no side becomes 0.
        scale = recode.max_side / max(height, width)
        rgb = resize(rgb, max(1, round(height * scale)), max(1, round(width * scale)))
        height, width = rgb.shape[:2]
        data, extension = _encoded(rgb, "JPEG", quality=recode.quality), "jpg"
    elif extension is None:
        data, extension = _encoded(rgb, "PNG", compress_level=6), "png"
    return PackItem(name, data, extension, {**about, "height": height, "width": width})


def _mask(name: str, data: bytes, recode: Recode, about: Mapping[str, Any]) -> PackItem:
    from isnet.mask_files import MaskRules, read_mask

    # The ratio is stored, so that it can be read without decoding.
    hole = read_mask(data, rules=MaskRules(hole=recode.hole)).hole
    # White is hole in every packed mask, whatever the source had.
    pixels = np.where(hole, np.uint8(255), np.uint8(0))
    extra = {"height": hole.shape[0], "width": hole.shape[1], "hole_ratio": round(float(hole.mean()), 6)}
    return PackItem(name, _encoded(pixels, "PNG", optimize=True), "png", {**about, **extra})


def _encoded(pixels: np.ndarray[Any, Any], kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def pack_pictures(
    entries: Iterable[PictureSource | Skip],
    destination: str,
    *,
    name: str,
    split: str,
    shard_bytes: int,
    recode: Recode = Recode(),
    side: Side | None = None,
    how: Mapping[str, Any] = MappingProxyType({}),
    replace: bool = False,
    executor: PackExecutor | None = None,
) -> Dataset:
    """Checks pictures and packs them into a dataset.

    Args:
        entries: pictures, and files that were skipped already.
        destination: address of the dataset.
        name: of the dataset, for its manifest.
        split: of the dataset, for its manifest.
        shard_bytes: size of a shard, bytes.
        recode: conversion of the pictures.
        side: pack only the pictures of this side of a split.
        how: entries for the manifest beside those of `recode`.
        replace: replace a dataset at the destination.
        executor: prepares the pictures; by default in this process.

    Raises:
        UserError: no picture can be used. Then no manifest is written.
    """
    num_pictures = 0

    def chosen() -> Iterator[Entry]:
        nonlocal num_pictures
        for entry in entries:
            # Files that were skipped already go through, for the manifest's list.
            if isinstance(entry, Skip):
                yield skipped_file(entry.file, entry.reason)
                continue
            num_pictures += 1
            yield PictureEntry(entry, recode, side)

    try:
        return pack(
            chosen(),
            destination,
            name=name,
            split=split,
            how={**recode.described(), **how},
            shard_bytes=shard_bytes,
            replace=replace,
            executor=executor or LocalExecutor(),
            needs_new=side is not None,
        )
    except NothingNew as nothing:
        assert side is not None
        raise UserError(
            f"{destination}: none of {quantity(num_pictures, 'picture')} is on the side {side.name!r} ({nothing}); "
            "take more pictures, or give that side a larger share"
        ) from None
