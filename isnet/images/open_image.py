"""The bytes of a picture file to loaded samples, with every refusal a `PictureError`.

Sizes are checked on the header, before anything is allocated; damage is looked for where Pillow passes over it.
Not here: what becomes of the samples (`isnet.images.decode` for training, `isnet.images.photo` for filling).
"""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

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

from isnet.errors import InputError
from isnet.images.files import PictureError
from isnet.images.pixels import Array, Palette, inverted, samples_of
from isnet.images.png_chunks import walked
from isnet.images.tiff_tags import deep_in_planes, white_is_zero

# Pillow's own warning threshold (a quarter of a GiB as 24-bit RGB); a 100-megapixel picture is beyond it.
MAX_PIXELS = 89_478_485
# Pillow refuses beyond twice that by itself.
MAX_PIXELS_CEILING = 2 * MAX_PIXELS
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
DECODE_ERRORS = (
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


@contextmanager
def opened(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """The picture as Pillow sees it, its header checked and its samples not loaded yet."""
    if not data:
        raise PictureError("empty", "the file has no bytes; fetch it again or remove it")
    with pillow_is_quiet():
        with _decoding(data, "picture"):
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        with image:
            check_size(*image.size, max_pixels)
            yield image


def native(image: Image.Image, data: bytes) -> tuple[Array, str, Palette | None]:
    """Load a picture opened from `data`: samples, mode and palette (`isnet.images.pixels`), not turned yet."""
    what = f"{image.format} of {image.width}x{image.height}"
    if image.format == "PNG":
        _check_png(data, what)
    elif image.format in ("JPEG", "MPO"):
        _check_jpeg(data, what)
    elif deep_in_planes(image):
        raise PictureError("unsupported", f"{what} has 16-bit colours in separate planes; interleave or convert them")
    with _decoding(data, what):
        image.load()
    try:
        pixels, mode, palette = samples_of(image)
    except ValueError as error:
        raise PictureError("unsupported", str(error)) from error
    if mode in ("I;16", "F") and white_is_zero(image):
        pixels = inverted(pixels)
    return pixels, mode, palette


def _check_png(data: bytes, what: str) -> None:
    """Compare the checksums of the chunks that make the picture; Pillow does not look at all of them."""
    # What is missing at the end, Pillow notices.
    for name, start, end in walked(data):
        critical = not name[0] & 0x20
        if critical and zlib.crc32(memoryview(data)[start + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            part = name.decode("ascii", "backslashreplace")
            raise PictureError("damaged", f"{what}: part {part} fails its checksum; fetch it again or remove it")


def _check_jpeg(data: bytes, what: str) -> None:
    """Pillow fills a JPEG that ends early, but properly, with gray; the stricter decoder notices."""
    import simplejpeg

    try:
        simplejpeg.decode_jpeg(data, "GRAY", min_factor=8, min_height=1, min_width=1)
    except ValueError as error:
        if is_jpeg_damage(error):
            raise broken(error, what) from error


def is_jpeg_damage(error: ValueError) -> bool:
    """Whether libjpeg-turbo's complaint means lost pixels. Padding between segments, which some cameras write, and
    sampling factors it does not know are none.
    """
    text = str(error).lower()
    return "premature end" in text or ("corrupt jpeg data" in text and "extraneous bytes before marker" not in text)


@contextmanager
def _decoding(data: bytes, what: str) -> Iterator[None]:
    """What Pillow raises, as `PictureError`."""
    try:
        yield
    except MemoryError as error:
        raise PictureError("too large", f"{what} does not fit into memory; reduce it first") from error
    except Image.DecompressionBombError as error:
        found = re.search(r"[0-9]+", str(error))
        pixels = found.group() if found else "too many"
        raise PictureError(
            "too large", f"its header says {pixels} pixels; need at most {MAX_PIXELS}; reduce the picture first"
        ) from error
    except UnidentifiedImageError as error:
        raise _not_a_picture(data) from error
    except DECODE_ERRORS as error:
        raise broken(error, what) from error


@contextmanager
def pillow_is_quiet() -> Iterator[None]:
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
            f"reduce the picture first (in Python, max_pixels allows up to {MAX_PIXELS_CEILING})",
        )


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation 1 to 8 still to be applied; 1 (upright) where it is missing or makes no sense."""
    try:
        found = image.getexif().get(0x0112, 1)
    except DECODE_ERRORS:
        return 1
    return int(found) if found in range(1, 9) else 1


def broken(error: BaseException, what: str) -> PictureError:
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
        return PictureError(
            "unsupported",
            "a TIFF with other samples; need integers of 8 or 16 bits, or one 32-bit float a pixel; convert it",
        )
    start = data[:64].lstrip()
    for first, what in _FIRST_BYTES:
        if start.startswith(first):
            return PictureError("not a picture", f"the content looks like {what}; {known}; fetch it again or remove it")
    return PictureError("not a picture", f"{len(data)} bytes starting {data[:8]!r}; {known}; check the file")
