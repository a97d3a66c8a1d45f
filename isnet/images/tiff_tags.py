"""What the tags of a TIFF say about its samples, and which of it is not what comes out of Pillow.

Not here: loading (`isnet.images.open_image`).
"""

from __future__ import annotations

from PIL import Image, TiffImagePlugin

# Values of ExtraSamples and SampleFormat (TIFF 6.0, sections 18 and 19).
_NO_MEANING, _MULTIPLIED = 0, 1
_SIGNED = 2


def _values(image: Image.Image, tag: int) -> tuple[int, ...]:
    """A tag's values; none where it is missing or the picture is no TIFF."""
    if image.format != "TIFF":
        return ()
    found = image.tag_v2.get(tag, ())  # type: ignore[attr-defined]
    found = found if isinstance(found, tuple) else (found,)
    # a damaged tag may hold text or rationals
    return tuple(value for value in found if isinstance(value, int))


def bits(image: Image.Image) -> set[int]:
    """Bits of the samples of a TIFF; empty for other formats."""
    return set(_values(image, TiffImagePlugin.BITSPERSAMPLE))


def deep_in_planes(image: Image.Image) -> bool:
    """A layout that both Pillow and OpenCV read wrongly, without a word."""
    depths = _values(image, TiffImagePlugin.BITSPERSAMPLE)
    return _values(image, TiffImagePlugin.PLANAR_CONFIGURATION) == (2,) and len(depths) > 1 and max(depths) > 8


def white_is_zero(image: Image.Image) -> bool:
    """Gray counted down from white. Pillow turns it round for up to 8 bits, and for more hands it out as stored."""
    return _values(image, TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == (0,)


def multiplied_by_alpha(image: Image.Image) -> bool:
    """Colours stored multiplied by alpha ("associated"). Pillow divides them, OpenCV hands them out as stored."""
    return _MULTIPLIED in _values(image, TiffImagePlugin.EXTRASAMPLES)


def reading_notes(image: Image.Image) -> list[str]:
    """What a user should know where the samples read are not those stored."""
    notes = []
    depths = bits(image)
    if white_is_zero(image):
        notes.append("its gray counts down from white; it was turned round and is written as counting up from black")
    if multiplied_by_alpha(image):
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
