"""Bytes of a picture file to pixels, and the crops made of them: what training and evaluation read.

Every picture comes out as 8-bit RGB, upright. How each kind is brought there:

* gray, bilevel and palette pictures are expanded; alpha is dropped, the stored colours below it are kept;
* CMYK is converted without its profile, 16-bit samples keep their high byte, float samples must say their range;
* of an animation or a multi-page file the first frame is taken; the EXIF orientation is applied;
* a size beyond `max_pixels` is refused from the header, before anything is allocated;
* a broken or cut file is refused whole: half a picture is never returned.

Not here: reading a photo so that it can be written back in its own mode (`isnet.photos`), finding pictures in a
folder (`isnet.folders`), masks (`isnet.masks`, `isnet.mask_files`).
"""

from __future__ import annotations

import io
import os
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from isnet.crops import center_square, flip, random_crop
from isnet.errors import InputError
from isnet.samples import Array, Palette, samples_of, to_rgb8, turned

__all__ = ["PictureError", "center_square", "decode_rgb", "flip", "opened", "random_crop", "read_bytes", "shown"]

Pixels = NDArray[np.uint8]

# Pillow's own warning threshold (a quarter of a GiB as 24-bit RGB); a 100-megapixel picture is beyond it.
MAX_PIXELS = 89_478_485
# Pillow refuses beyond twice that by itself.
MAX_PIXELS_CEILING = 2 * MAX_PIXELS
MAX_FILE_BYTES = 1 << 30
# Formats whose decoders run in this process alone; PostScript, for one, would start another program.
FORMATS = (
    JpegImagePlugin.JpegImageFile.format,
    PngImagePlugin.PngImageFile.format,
    GifImagePlugin.GifImageFile.format,
    WebPImagePlugin.WebPImageFile.format,
    TiffImagePlugin.TiffImageFile.format,
    BmpImagePlugin.BmpImageFile.format,
    PpmImagePlugin.PpmImageFile.format,
    Jpeg2KImagePlugin.Jpeg2KImageFile.format,
    AvifImagePlugin.AvifImageFile.format,
)

# What Pillow's decoders raise on bytes that are not what their header promises.
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    OverflowError,
    RuntimeError,
    struct.error,
    zlib.error,
)
_FIRST_BYTES = (
    (b"<", "a web page or XML"),
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript document"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"8BPS", "a Photoshop document"),
    (b"{", "JSON"),
)


class PictureError(InputError):
    """A picture that cannot be used.

    `kind` is one of: empty, truncated, damaged, not a picture, unsupported, too large, missing, not a file, unreadable.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(kind, message)
        self.kind = kind
        self.message = message

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


def decode_rgb(data: bytes, *, shortest: int | None = None, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Decode an encoded picture to upright RGB: uint8 of shape (H, W, 3).

    With `shortest`, a picture at least twice as large is reduced while it is decoded, by the largest of 1, 2, 4, 8
    that leaves its shorter side at `shortest` pixels or more; the factor does not depend on the file format.

    Raises `PictureError` naming what is wrong.
    """
    if shortest is not None and shortest < 1:
        raise InputError(f"shortest is {shortest}; need at least 1 pixel, or None for the full size")
    if data[:3] == b"\xff\xd8\xff":
        rgb = _decode_jpeg(data, shortest, max_pixels)
        if rgb is not None:
            return rgb
    with opened(data, max_pixels=max_pixels) as image:
        factor = reduction(image.size, shortest)
        pixels, mode, palette = native(image, data)
        rgb = to_rgb8(pixels, mode, palette)
        orientation = orientation_of(image)
    if factor > 1:
        rgb = np.asarray(Image.fromarray(rgb).reduce(factor))
    return turned(rgb, orientation)


def _decode_jpeg(data: bytes, shortest: int | None, max_pixels: int) -> Pixels | None:
    """The same with libjpeg-turbo, twice as fast and strict about damage; None where Pillow has to do it."""
    import simplejpeg

    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None  # unusual sampling factors, or no JPEG after all
    if colours not in ("YCbCr", "Gray", "RGB"):
        return None  # CMYK: turbo's conversion differs from Pillow's
    check_size(width, height, max_pixels)
    factor = reduction((width, height), shortest)
    smallest = {"min_height": -(-height // factor), "min_width": -(-width // factor)} if factor > 1 else {}
    try:
        rgb: Pixels = simplejpeg.decode_jpeg(data, "RGB", min_factor=factor, **smallest)
    except ValueError as error:
        if "extraneous bytes before marker" not in str(error):
            raise _broken(error, f"JPEG of {width}x{height}") from error
        # Padding between segments: some cameras write it, and every pixel is there.
        rgb = simplejpeg.decode_jpeg(data, "RGB", min_factor=factor, strict=False, **smallest)
    return turned(rgb, _jpeg_orientation(data))


def _jpeg_orientation(data: bytes) -> int:
    with _pillow_is_quiet():
        try:
            with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
                return orientation_of(image)
        except (*_DECODE_ERRORS, Image.DecompressionBombError):
            return 1  # a broken EXIF block is no reason to lose the picture


def reduction(size: tuple[int, int], shortest: int | None) -> int:
    """The factor 1, 2, 4 or 8 by which a picture of `size` may shrink and still have `shortest` pixels a side."""
    if shortest is None:
        return 1
    return max(factor for factor in (1, 2, 4, 8) if factor == 1 or min(size) >= factor * shortest)


@contextmanager
def opened(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """The picture as Pillow sees it, its header checked and its samples not loaded yet."""
    if not data:
        raise PictureError("empty", "the file has no bytes; fetch it again or remove it")
    with _pillow_is_quiet():
        with _decoding(data, "picture"):
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        with image:
            check_size(*image.size, max_pixels)
            yield image


def native(image: Image.Image, data: bytes) -> tuple[Array, str, Palette | None]:
    """Load a picture opened from `data`: samples, mode and palette as `isnet.samples` names them, not turned yet."""
    what = f"{image.format} of {image.width}x{image.height}"
    if image.format == "PNG":
        _check_png(data, what)
    elif image.format in ("JPEG", "MPO"):
        _check_jpeg(data, what)
    elif image.format == "TIFF" and _is_deep_in_planes(image):
        raise PictureError("unsupported", f"{what} has 16-bit colours in separate planes; interleave or convert them")
    with _decoding(data, what):
        image.load()
    try:
        return samples_of(image)
    except ValueError as error:
        raise PictureError("unsupported", str(error)) from error


def _is_deep_in_planes(image: Image.Image) -> bool:
    """A layout that both Pillow and OpenCV read wrongly, without a word."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, ())
    separate = tags.get(TiffImagePlugin.PLANAR_CONFIGURATION, 1) == 2
    return separate and isinstance(bits, tuple) and len(bits) > 1 and max(bits) > 8


def _check_png(data: bytes, what: str) -> None:
    """Compare the checksums of the chunks that make the picture; Pillow does not look at all of them."""
    place = 8
    while place + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        end = place + 8 + length
        if name == b"IEND" or end + 4 > len(data):
            return  # what is missing at the end, Pillow notices
        critical = not name[0] & 0x20
        if critical and zlib.crc32(memoryview(data)[place + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            part = name.decode("ascii", "backslashreplace")
            raise PictureError("damaged", f"{what}: part {part} fails its checksum; fetch it again or remove it")
        place = end + 4


def _check_jpeg(data: bytes, what: str) -> None:
    """Pillow fills a JPEG that ends early, but properly, with gray; the stricter decoder notices."""
    import simplejpeg

    try:
        simplejpeg.decode_jpeg(data, "GRAY", min_factor=8, min_height=1, min_width=1)
    except ValueError as error:
        if "premature end" in str(error).lower():
            raise _broken(error, what) from error


@contextmanager
def _decoding(data: bytes, what: str) -> Iterator[None]:
    """What Pillow raises, as `PictureError`."""
    try:
        yield
    except MemoryError as error:
        raise PictureError("too large", f"{what} does not fit into memory; reduce it first") from error
    except Image.DecompressionBombError as error:
        raise PictureError(
            "too large", f"{error}; need at most {MAX_PIXELS_CEILING} pixels; reduce it first"
        ) from error
    except UnidentifiedImageError as error:
        raise _not_a_picture(data) from error
    except _DECODE_ERRORS as error:
        raise _broken(error, what) from error


@contextmanager
def _pillow_is_quiet() -> Iterator[None]:
    """Pillow warns about broken EXIF blocks and large sizes; the first are harmless, the second are checked here.

    Restoring the filters is not safe between threads; at worst Pillow's warnings stay silent afterwards.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        yield


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Refuse a size from the header alone."""
    if not 0 < max_pixels <= MAX_PIXELS_CEILING:
        raise InputError(f"max_pixels is {max_pixels}; need 1 to {MAX_PIXELS_CEILING}")
    if width < 1 or height < 1:
        raise PictureError("damaged", f"its header says {width}x{height}; need at least one pixel")
    if width * height > max_pixels:
        raise PictureError(
            "too large",
            f"its header says {width}x{height} = {width * height} pixels; need at most {max_pixels}; "
            "reduce the picture first or raise max_pixels",
        )


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation 1 to 8 still to be applied; 1 (upright) where it is missing or makes no sense."""
    try:
        found = image.getexif().get(0x0112, 1)
    except _DECODE_ERRORS:
        return 1
    return int(found) if found in range(1, 9) else 1


def _broken(error: BaseException, what: str) -> PictureError:
    text = str(error) or type(error).__name__
    cut = any(word in text.lower() for word in ("truncated", "premature end", "eof", "not enough", "incomplete"))
    if cut:
        return PictureError("truncated", f"{what} ends too early ({text}); fetch it again or remove it")
    return PictureError("damaged", f"{what} cannot be decoded ({text}); fetch it again or remove it")


def _not_a_picture(data: bytes) -> PictureError:
    known = f"need one of {', '.join(FORMATS)}"
    if data[4:8] == b"ftyp":
        return PictureError("unsupported", f"a file of type {data[8:12]!r} (HEIC or a film); {known}; convert it")
    if data[:4] in (b"II*\0", b"MM\0*"):
        return PictureError("unsupported", "a TIFF with samples of another kind; need 8 or 16 bits; convert it")
    start = data[:64].lstrip()
    for first, what in _FIRST_BYTES:
        if start.startswith(first):
            return PictureError("not a picture", f"the content looks like {what}; {known}; fetch it again or remove it")
    return PictureError("not a picture", f"{len(data)} bytes starting {data[:8]!r}; {known}; check the file")


def read_bytes(path: str | os.PathLike[str], *, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """The bytes of a regular file; pipes, devices, folders and broken links are refused without opening them."""
    name = shown(path)
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            what = "folder" if stat.S_ISDIR(found.st_mode) else "pipe, socket or device"
            raise PictureError("not a file", f"{name} is a {what}; need a picture file")
        if found.st_size > max_bytes:
            raise PictureError("too large", f"{name} has {found.st_size} bytes; need at most {max_bytes}")
        return Path(path).read_bytes()
    except PictureError:
        raise
    except FileNotFoundError as error:
        what = "is a link to nothing" if os.path.islink(path) else "does not exist"
        raise PictureError("missing", f"{name} {what}; check the path") from error
    except OSError as error:
        raise PictureError("unreadable", f"{name} cannot be read ({error.strerror}); check its permissions") from error
    except ValueError as error:
        raise PictureError("missing", f"{name} is no file name ({error}); check the path") from error


def shown(path: str | os.PathLike[str]) -> str:
    """A file name on one line, whatever its bytes: unprintable ones as escapes."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
