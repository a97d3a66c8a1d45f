"""Sample layout from a TIFF's tags, where Pillow's reading differs.

Not here: loading (`isnet.images.open_image`).
"""

from __future__ import annotations

from PIL import Image, TiffImagePlugin

# Values of ExtraSamples and SampleFormat (TIFF 6.0, sections 18 and 19).
_NO_MEANING, _MULTIPLIED = 0, 1
_SIGNED = 2


def _values(image: Image.Image, tag: int) -> tuple[int, ...]:
    """Values of a tag; empty for other formats."""
    if image.format != "TIFF":
        return ()
    stored = image.tag_v2.get(tag, ())  # type: ignore[attr-defined]
    values = stored if isinstance(stored, tuple) else (stored,)
    # A damaged tag may hold text or rationals.
    return tuple(value for value in values if isinstance(value, int))


def bits_per_sample(image: Image.Image) -> set[int]:
    """Bits per sample of a TIFF; empty for other formats."""
    return set(_values(image, TiffImagePlugin.BITSPERSAMPLE))


def is_planar_16_bit(image: Image.Image) -> bool:
    """True for a deep planar layout.

    Pillow and OpenCV both misread it, without an error.
    """
    depths = _values(image, TiffImagePlugin.BITSPERSAMPLE)
    return _values(image, TiffImagePlugin.PLANAR_CONFIGURATION) == (2,) and len(depths) > 1 and max(depths) > 8


def white_is_zero(image: Image.Image) -> bool:
    """True if gray counts down from white.

    Pillow inverts it for up to 8 bits, and returns deeper gray as stored.
    """
    return _values(image, TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == (0,)


def is_premultiplied(image: Image.Image) -> bool:
    """True if colours are multiplied by alpha ("associated").

    Pillow divides them by alpha, OpenCV returns them as stored.
    """
    return _MULTIPLIED in _values(image, TiffImagePlugin.EXTRASAMPLES)


def reading_notes(image: Image.Image) -> list[str]:
    """Notes where the samples read differ from those stored."""
    notes = []
    depths = bits_per_sample(image)
    if white_is_zero(image):
        notes.append("its gray counts down from white; it was turned round and is written as counting up from black")
    if is_premultiplied(image):
        notes.append(
            "its colours were stored multiplied by alpha; they were divided by it, rounded, and are written as straight"
        )
    if _NO_MEANING in _values(image, TiffImagePlugin.EXTRASAMPLES):
        notes.append("its extra channel, of no stated meaning, was left out")
    if _SIGNED in _values(image, TiffImagePlugin.SAMPLEFORMAT):
        notes.append("its signed samples were read as unsigned, and are written as such")
    if image.mode == "CMYK" and depths == {16}:
        notes.append("its 16-bit inks were read as 8-bit")
    elif image.mode.startswith("I") and depths and depths != {16}:
        notes.append(f"its {'- and '.join(map(str, sorted(depths)))}-bit samples are written as 16-bit")
    if image.mode == "PA":
        notes.append("its palette and alpha are written as RGBA")
    return notes
