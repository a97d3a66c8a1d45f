"""Writes photos, in their own mode where the format allows.

Notes report a lossy format and a mode that the format cannot hold. A file appears whole or not at all. The format
follows from the suffix. Not here: reading (`isnet.images.photo`).
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from isnet.errors import InputError
from isnet.images.files import display_name
from isnet.images.jpeg_segments import insert_segments
from isnet.images.metadata import Metadata, loss_note, tags_of_tiff, with_comment_as_text
from isnet.images.open_image import DECODE_ERRORS
from isnet.images.photo import Photo
from isnet.images.png_chunks import (
    SIGNATURE,
    chunk,
    insert_chunks,
    insert_colour_chunks,
    non_srgb_chunks,
    xmp_chunk,
)
from isnet.images.tag_blocks import add_tags, build_block

_DEEP = ("LA;16", "RGB;16", "RGBA;16")


@dataclass(frozen=True, kw_only=True)
class _Format:
    """Modes and metadata of a format, and Pillow's options.

    The modes are held without loss, or, if `lossy`, at all. `kinds` are those of `isnet.images.metadata`, `max_side` is
    in pixels.
    """

    name: str
    modes: tuple[str, ...]
    lossy: bool = False
    profile: bool = True
    dpi: bool = True
    kinds: tuple[str, ...] = ()
    max_side: int = (1 << 31) - 1
    options: tuple[tuple[str, Any], ...] = ()


_PNG = _Format(
    name="PNG",
    modes=("1", "L", "LA", "P", "RGB", "RGBA", "I;16", *_DEEP),
    kinds=("EXIF", "XMP", "comment", "text chunks"),
    # A third of the time of level 6, for files that are 1.5 % larger.
    options=(("compress_level", 3),),
)
_TIFF = _Format(
    name="TIFF",
    modes=("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F", "RGB;16", "RGBA;16"),
    kinds=("EXIF", "XMP", "IPTC", "georeference"),
    options=(("compression", "tiff_adobe_deflate"),),
)
# libjpeg takes 65500 of the 65535 pixels that the format allows.
_JPEG = _Format(
    name="JPEG",
    modes=("L", "RGB", "CMYK"),
    lossy=True,
    kinds=("EXIF", "XMP", "IPTC", "comment"),
    max_side=65500,
)
_WEBP = _Format(
    name="WEBP",
    modes=("RGB", "RGBA"),
    dpi=False,
    kinds=("EXIF", "XMP"),
    max_side=16383,
    options=(("lossless", True), ("exact", True)),
)
_FORMATS = {
    ".png": _PNG,
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".webp": _WEBP,
    ".bmp": _Format(name="BMP", modes=("1", "L", "P", "RGB"), profile=False),
    ".gif": _Format(name="GIF", modes=("L", "P"), profile=False, dpi=False, kinds=("comment",), max_side=65535),
    ".jp2": _Format(name="JPEG2000", modes=("L", "LA", "RGB", "RGBA", "I;16"), profile=False, dpi=False),
}


def _rgba(photo: Photo) -> NDArray[Any]:
    gray = np.repeat(photo.pixels[..., :1], 3, axis=2)
    return np.concatenate([gray, photo.pixels[..., -1:]], axis=2)


def _of_palette(photo: Photo) -> str:
    return "RGBA" if photo.palette is not None and (photo.palette[:, 3] < 255).any() else "RGB"


def _to_16(photo: Photo) -> NDArray[Any]:
    return np.rint(photo.pixels.astype(np.float64) * 65535).astype(np.uint16)


def _to_8(photo: Photo) -> NDArray[Any]:
    return (photo.pixels >> 8).astype(np.uint8)


# From a mode to the next simpler one, with the conversion of the samples; every chain ends at RGB.
_STEPS: dict[str, tuple[str | Callable[[Photo], str], Callable[[Photo], NDArray[Any]]]] = {
    "1": ("L", Photo.plain),
    "P": (_of_palette, Photo.plain),
    "CMYK": ("RGB", Photo.rgb8),
    "L": ("RGB", Photo.rgb8),
    "LA": ("RGBA", _rgba),
    "RGBA": ("RGB", Photo.rgb8),
    "F": ("I;16", _to_16),
    "RGB;F": ("RGB;16", _to_16),
    "RGBA;F": ("RGBA;16", _to_16),
    "I;16": ("L", _to_8),
    "LA;16": ("RGBA;16", _rgba),
    "RGB;16": ("RGB", _to_8),
    "RGBA;16": ("RGBA", _to_8),
}


def write_photo(
    photo: Photo,
    path: str | os.PathLike[str],
    *,
    quality: int = 95,
    seal: Callable[[bytes, str], bytes] | None = None,
) -> tuple[str, ...]:
    """Writes a photo in the format of the suffix.

    `quality` 1 to 100 is for lossy formats; `seal` gets the encoded file and its suffix, and gives the one to write.
    Returns notes for the user on everything that the format loses.

    Raises:
        InputError: The suffix names no format written here, or the folder cannot be written.
    """
    target = Path(path)
    data, notes = encode_photo(photo, target.suffix, quality=quality)
    if seal is not None:
        data = seal(data, target.suffix)
    # A short temporary name: a long target name leaves no room for another suffix.
    partial = target.parent / f".{os.getpid()}-{zlib.crc32(os.fsencode(target.name)):08x}.partial"
    try:
        partial.write_bytes(data)
        os.replace(partial, target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(
            f"{display_name(target)} cannot be written ({error.strerror}); check folder and permissions"
        ) from error
    return notes


def can_write(suffix: str) -> bool:
    """True if a suffix (".png") names a format written here."""
    return suffix.lower() in _FORMATS


def check_suffix(suffix: str) -> None:
    """Refuses a suffix of no format written here."""
    if not can_write(suffix):
        raise InputError(
            f"pictures cannot be written as {suffix or 'a name without suffix'!r}; need {', '.join(_FORMATS)}"
        )


def check_size_for(suffix: str, height: int, width: int) -> None:
    """Refuses a size that a format cannot hold."""
    form = _FORMATS[suffix.lower()]
    if max(height, width) > form.max_side:
        raise InputError(
            f"{form.name} holds at most {form.max_side} pixels a side, and the picture has {width}x{height}; write PNG "
            "or TIFF"
        )


def encode_photo(photo: Photo, suffix: str, *, quality: int = 95) -> tuple[bytes, tuple[str, ...]]:
    """Encodes in the format of `suffix` (".png"); notes as `write_photo`."""
    check_suffix(suffix)
    if not 1 <= quality <= 100:
        raise InputError(f"quality is {quality}; need 1 to 100")
    form = _FORMATS[suffix.lower()]
    check_size_for(suffix, *photo.size)
    # Simplify the mode step by step until the format holds it.
    output, notes = photo, []
    while output.mode not in form.modes or _loses_transparency(output, form):
        if output.mode == "RGB":
            raise InputError(f"{form.name} holds no {photo.mode} picture; write PNG or TIFF")
        output = _simplify(output)
    # Report each loss.
    if output.mode != photo.mode:
        notes.append(f"{form.name} holds no {photo.mode} picture like this one; written as {output.mode}")
    if form.lossy:
        notes.append(f"{form.name} is lossy: known pixels are not kept exactly; write PNG or TIFF to keep them")
    if photo.icc and not (form.profile and output.icc):
        notes.append("its colour profile is lost")
    if photo.dpi and not form.dpi:
        notes.append(f"its resolution is lost: {form.name} has no place for it")
    if note := loss_note(photo.metadata, form.name, form.kinds):
        notes.append(note)
    try:
        data = _encode(output, form, quality)
    except (*DECODE_ERRORS, MemoryError) as error:
        reason = str(error) or type(error).__name__
        raise InputError(f"{form.name} cannot hold this picture ({reason}); write PNG or TIFF") from error
    data, too_long = _with_metadata(data, form, photo.metadata)
    if too_long:
        notes.append(f"its metadata ({', '.join(too_long)}) is lost: too long for {form.name}")
    # Only PNG has chunks for colours.
    if form is _PNG:
        return insert_colour_chunks(data, output.colours, profile=bool(output.icc)), tuple(notes)
    if chunk_names := non_srgb_chunks(output.colours, profile=bool(photo.icc)):
        notes.append(f"what its {' and '.join(chunk_names)} said of its colours is lost: they are shown as sRGB")
    return data, tuple(notes)


def _loses_transparency(photo: Photo, form: _Format) -> bool:
    """True if transparent palette entries would become visible.

    PNG keeps all of them, GIF one, other formats none.
    """
    if photo.mode != "P" or photo.palette is None:
        return False
    alpha = photo.palette[:, 3]
    if form.name == "GIF":
        return bool(((alpha > 0) & (alpha < 255)).any()) or int((alpha == 0).sum()) > 1
    return form.name != "PNG" and bool((alpha < 255).any())


def _simplify(photo: Photo) -> Photo:
    mode, convert = _STEPS[photo.mode]
    mode = mode if isinstance(mode, str) else mode(photo)
    icc = photo.icc if _family(mode) == _family(photo.mode) else None
    return replace(photo, pixels=convert(photo), mode=mode, palette=None, icc=icc)


def _family(mode: str) -> str:
    """Colour space that a profile must fit."""
    if mode == "CMYK":
        return "CMYK"
    return "RGB" if mode.startswith(("RGB", "P")) else "gray"


def _encode(photo: Photo, form: _Format, quality: int) -> bytes:
    if photo.mode in _DEEP:
        return _deep_png(photo) if form is _PNG else _deep_tiff(photo)
    # Metadata that the format can hold.
    options: dict[str, Any] = dict(form.options)
    if photo.icc and form.profile:
        options["icc_profile"] = photo.icc
    if photo.dpi and form.dpi:
        options["dpi"] = photo.dpi
    if form.lossy:
        # Full colour resolution: a hole's edge must not bleed into its neighbours.
        options.update(quality=quality, **({} if photo.mode == "L" else {"subsampling": 0}))
    # Of these formats Pillow writes metadata itself.
    if form is _WEBP:
        options["exif"] = build_block(photo.metadata.exif) if photo.metadata.exif else b""
        options["xmp"] = photo.metadata.xmp
    if form.name == "GIF" and photo.metadata.comment:
        options["comment"] = photo.metadata.comment
    image = _to_pillow(photo)
    # PNG stores alpha for each entry, GIF one transparent index.
    if photo.mode == "P" and photo.palette is not None and (photo.palette[:, 3] < 255).any():
        alpha = photo.palette[:, 3]
        options["transparency"] = int(np.flatnonzero(alpha == 0)[0]) if form.name == "GIF" else alpha.tobytes()
    if form.name == "GIF":
        options["optimize"] = False  # True would renumber the palette.
    file = io.BytesIO()
    image.save(file, form.name, **options)
    return file.getvalue()


def _with_metadata(data: bytes, form: _Format, metadata: Metadata) -> tuple[bytes, tuple[str, ...]]:
    """Adds metadata; returns kinds that do not fit."""
    if form is _JPEG:
        exif = build_block(metadata.exif) if metadata.exif else b""
        return insert_segments(data, exif=exif, xmp=metadata.xmp, iptc=metadata.iptc, comment=metadata.comment)
    if form is _PNG:
        chunks = with_comment_as_text(metadata).text
        chunks = (xmp_chunk(metadata.xmp), *chunks) if metadata.xmp else chunks
        chunks = ((b"eXIf", build_block(metadata.exif)), *chunks) if metadata.exif else chunks
        return insert_chunks(data, chunks), ()
    tags = tags_of_tiff(metadata) if form is _TIFF else {}
    return add_tags(data, tags) if tags else data, ()


def _to_pillow(photo: Photo) -> Image.Image:
    height, width = photo.size
    if photo.mode == "1":
        return Image.fromarray(photo.pixels)
    data = photo.pixels.astype(np.float32) if photo.mode == "F" else photo.pixels
    image = Image.frombytes(photo.mode, (width, height), np.ascontiguousarray(data).tobytes())
    if photo.mode == "P" and photo.palette is not None:
        image.putpalette(photo.palette[:, :3].tobytes())
    return image


def _deep_tiff(photo: Photo) -> bytes:
    import tifffile

    file = io.BytesIO()
    tifffile.imwrite(
        file,
        photo.pixels,
        photometric="rgb",
        extrasamples=["unassalpha"] if photo.mode == "RGBA;16" else None,
        compression="zlib",
        iccprofile=photo.icc,
        resolution=photo.dpi,
        resolutionunit=2 if photo.dpi else None,
        metadata=None,
        software=False,
        byteorder="<",
    )
    return file.getvalue()


def _deep_png(photo: Photo) -> bytes:
    """Encodes 16-bit colour as PNG, which Pillow does not write.

    See the PNG specification, chapters 7, 9 and 11.
    """
    height, width = photo.size
    # (H, W·C·2) bytes, big-endian; each row as its difference from the row above (filter type 2).
    rows = np.ascontiguousarray(photo.pixels.astype(">u2")).view(np.uint8).reshape(height, -1)
    filtered = np.empty((height, rows.shape[1] + 1), np.uint8)
    filtered[:, 0] = 2
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    # Header, profile, resolution, then the pixels.
    colour_type = {"LA;16": 4, "RGB;16": 2, "RGBA;16": 6}[photo.mode]
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))]
    if photo.icc:
        chunks.append((b"iCCP", b"ICC Profile\0\0" + zlib.compress(photo.icc)))
    if photo.dpi:
        per_metre = [round(value / 0.0254) for value in photo.dpi]
        chunks.append((b"pHYs", struct.pack(">IIB", *per_metre, 1)))
    chunks += [(b"IDAT", zlib.compress(filtered.tobytes(), 6)), (b"IEND", b"")]
    return SIGNATURE + b"".join(chunk(name, body) for name, body in chunks)
