"""Opens encoded pictures safely; every refusal is a `PictureError`.

Sizes are checked in the header, before anything is allocated. Damage that Pillow ignores is detected here.
Not here: the use of the samples (`isnet.images.decode` for training, `isnet.images.photo` for filling).
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
from isnet.images import heif
from isnet.images.depth import deep_jpeg_2000, deep_pnm
from isnet.images.files import PictureError
from isnet.images.pixels import Array, Palette, invert_gray, samples_from_pillow
from isnet.images.png_chunks import SIGNATURE, has_right_checksum, iter_chunks, without_refused_chunks
from isnet.images.tiff_tags import is_planar_16_bit, white_is_zero

# Pillow's own warning threshold (a quarter of a GiB as 24-bit RGB); a 100-megapixel picture is beyond it.
MAX_PIXELS = 89_478_485
# Pillow itself refuses more than twice that.
MAX_PIXELS_CEILING = 2 * MAX_PIXELS
# Only formats decoded inside this process; PostScript, for example, would start another program.
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
    *(OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError, TypeError, AttributeError, OverflowError),
    *(RuntimeError, struct.error, zlib.error),
)
# First bytes of files that users mistake for pictures.
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
def open_picture(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Opens a picture and checks its header, not its samples."""
    if not data:
        raise PictureError("empty", "the file has no bytes; fetch it again or remove it")
    with pillow_is_quiet():
        with _decoding(data, "picture"):
            encoded = without_refused_chunks(data) if data.startswith(SIGNATURE) else data
            image = Image.open(io.BytesIO(encoded), formats=_formats(data))
        with image:
            check_size(*image.size, max_pixels)
            yield image


def _formats(data: bytes) -> tuple[str, ...]:
    """Formats to try; loads the reader for HEIC alone."""
    if not heif.is_heif(data) or not heif.can_read():
        return FORMATS
    heif.register()
    return (heif.FORMAT,)


def load_samples(image: Image.Image, data: bytes) -> tuple[Array, str, Palette | None]:
    """Loads samples, mode and palette, before the EXIF orientation.

    `data` are the bytes that `image` was opened from; modes are those of `isnet.images.pixels`.
    """
    what = f"{image.format} of {image.width}x{image.height}"
    # Pillow reads these kinds of damage, and this layout, without an error.
    if image.format == "PNG":
        _check_png(data, what)
    elif image.format in ("JPEG", "MPO"):
        _check_jpeg(data, what)
    elif is_planar_16_bit(image):
        raise PictureError("unsupported", f"{what} has 16-bit colours in separate planes; interleave or convert them")
    if (deep := deep_pnm(image, data)) is not None:
        return deep, "RGB;16", None
    with _decoding(data, what):
        image.load()
    # Pillow has found no damage; OpenCV, which reads the whole depth, overlooks some.
    if image.format == "JPEG2000" and image.mode == "RGB" and (deep := deep_jpeg_2000(data)) is not None:
        return deep, "RGB;16", None
    try:
        pixels, mode, palette = samples_from_pillow(image)
    except ValueError as error:
        raise PictureError("unsupported", str(error)) from error
    # Pillow inverts such gray for up to 8 bits only.
    if mode in ("I;16", "F") and white_is_zero(image):
        pixels = invert_gray(pixels)
    return pixels, mode, palette


def _check_png(data: bytes, what: str) -> None:
    """Compares the checksums of the critical chunks; Pillow skips some."""
    # Pillow itself detects a missing end.
    for name, start, end in iter_chunks(data):
        # Bit 5 of the first letter marks a chunk that readers may ignore.
        critical = not name[0] & 0x20
        if critical and not has_right_checksum(data, start, end):
            part = name.decode("ascii", "backslashreplace")
            raise PictureError("damaged", f"{what}: part {part} fails its checksum; fetch it again or remove it")


def _check_jpeg(data: bytes, what: str) -> None:
    """Detects JPEGs that end early with a proper end marker.

    Pillow fills those with gray; libjpeg-turbo reports them, here at an eighth of the size.
    """
    import simplejpeg

    try:
        simplejpeg.decode_jpeg(data, "GRAY", min_factor=8, min_height=1, min_width=1)
    except ValueError as error:
        if is_jpeg_damage(error):
            raise decode_failure(error, what) from error


def is_jpeg_damage(error: ValueError) -> bool:
    """True if libjpeg-turbo's error means lost pixels.

    Padding between segments, which some cameras write, and sampling factors unknown to it lose none.
    """
    text = str(error).lower()
    return "premature end" in text or ("corrupt jpeg data" in text and "extraneous bytes before marker" not in text)


@contextmanager
def _decoding(data: bytes, what: str) -> Iterator[None]:
    """Converts Pillow's exceptions to `PictureError`."""
    try:
        yield
    except MemoryError as error:
        raise PictureError("too large", f"{what} does not fit into memory; reduce it first") from error
    except Image.DecompressionBombError as error:
        match = re.search(r"[0-9]+", str(error))
        pixels = match.group() if match else "too many"
        raise PictureError(
            "too large", f"its header says {pixels} pixels; need at most {MAX_PIXELS}; reduce the picture first"
        ) from error
    except UnidentifiedImageError as error:
        raise _not_a_picture(data) from error
    except DECODE_ERRORS as error:
        raise decode_failure(error, what) from error


@contextmanager
def pillow_is_quiet() -> Iterator[None]:
    """Silences Pillow's warnings about EXIF blocks and large sizes.

    Broken EXIF blocks are harmless, and sizes are checked here. Restoring the filters is not safe between threads; at
    worst Pillow's warnings stay silent afterwards.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        yield


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Refuses a size from the header alone."""
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
    """EXIF orientation still to apply, 1 (upright) to 8.

    1 where it is absent or invalid.
    """
    try:
        orientation = image.getexif().get(0x0112, 1)
    except DECODE_ERRORS:
        return 1
    return int(orientation) if orientation in range(1, 9) else 1


def decode_failure(error: BaseException, what: str) -> PictureError:
    """Error for a picture `what` whose decoder raised `error`."""
    text = str(error) or type(error).__name__
    # Decoders have many wordings for an early end.
    if any(word in text.lower() for word in ("truncated", "premature end", "eof", "not enough", "incomplete")):
        return PictureError("truncated", f"{what} ends too early ({text}); fetch it again or remove it")
    return PictureError("damaged", f"{what} cannot be decoded ({text}); fetch it again or remove it")


def _not_a_picture(data: bytes) -> PictureError:
    needed = f"need one of {', '.join(FORMATS)}"
    # Real pictures that Pillow cannot open here.
    if heif.is_heif(data):
        if heif.can_read():
            return PictureError("damaged", "HEIC whose header cannot be read; fetch it again or remove it")
        return PictureError("unsupported", "HEIC, which needs a reader: `pip install pi-heif`; or convert it to JPEG")
    if data[4:8] == b"ftyp":
        return PictureError("unsupported", f"a file of type {data[8:12]!r} (HEIC or a film); {needed}; convert it")
    if data[:4] in (b"II*\0", b"MM\0*"):
        return PictureError(
            "unsupported",
            "a TIFF with other samples; need integers of 8 or 16 bits, or one 32-bit float a pixel; convert it",
        )
    # Other kinds of files.
    start = data[:64].lstrip()
    for first, what in _FIRST_BYTES:
        if start.startswith(first):
            return PictureError(
                "not a picture", f"the content looks like {what}; {needed}; fetch it again or remove it"
            )
    return PictureError("not a picture", f"{len(data)} bytes starting {data[:8]!r}; {needed}; check the file")
