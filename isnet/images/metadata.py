"""Metadata of a picture: EXIF, XMP, IPTC, georeference, text.

What describes the picture is kept, with its types and values as they are stored. What shows the picture as it was
before the hole is not: thumbnails, previews, layers, a camera maker's own notes (whose offsets would be wrong, too),
auxiliary pictures. Not here: colours and resolution (`isnet.images.photo`), how the formats hold metadata
(`isnet.images.save`, `isnet.images.jpeg_segments`).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from PIL import Image

from isnet.images.png_chunks import Chunks, text_chunks
from isnet.images.tag_blocks import EXIF, MAIN, Directory, Tag, read_directories

_XMP, _IPTC = 700, 33723
_MAKER_NOTE, _PIXEL_WIDTH, _PIXEL_HEIGHT = 37500, 40962, 40963
# Georeference of GeoTIFF and GDAL; only a TIFF has a place for it.
GEOREFERENCE = frozenset((33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113))
RESOLUTION = frozenset((282, 283, 296))
# Layout of samples, previews, layers, profiles, raw data: these belong to the file as it was.
_LAYOUT = frozenset(
    (
        *(254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 273, 274, 277, 278, 279, 280, 281, 284, 288, 289, 290),
        *(291, 292, 293, 297, 317, 320, 321, 322, 323, 324, 325, 326, 327, 328, 330, 332, 334, 336, 338, 339, 340, 341),
        *(343, 344, 345, 346, 347, 351, *range(400, 405), *range(433, 436), *range(512, 522), *range(529, 533), 559),
        *(32781, 34675, 34377, 37724, 40965, *range(50706, 50842), 50879, *range(50931, 51126), *range(52525, 52600)),
    )
)
# Words of XMP that stands for other pictures in the file: previews, depth and gain maps, films, second parts.
_STALE_XMP = re.compile(
    rb"Thumbnails|xmpGImg|GImage|GDepth|GAudio|Container|MotionPhoto|MicroVideo|hdrgm|HasExtendedXMP"
)
# IPTC's mark of how a picture was made: by a camera, by a trained model, of parts.
_SOURCE_TYPE = re.compile(rb"DigitalSourceType(?:\s*=\s*[\"']|>|\s+rdf:resource\s*=\s*[\"'])\s*([\w:/.+-]+)")
_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation(?:\s*=\s*[\"']|>))\s*[2-8]")
# IPTC's dataset 2:202, a preview.
_IPTC_PREVIEW = b"\x1c\x02\xca"
# Name of a manifest of content credentials (C2PA), near the beginning of a file.
_CREDENTIALS = b"c2pa"
# ImageMagick's EXIF block in a text chunk, in hexadecimal digits.
_RAW_EXIF = "Raw profile type exif"


@dataclass(frozen=True)
class Metadata:
    """Metadata to write beside filled samples.

    Attributes:
        directories: Tags of the main directory and those of EXIF and GPS.
        xmp: An XMP packet.
        iptc: IPTC records.
        comment: Of a JPEG or GIF.
        text: A PNG's text chunks.
        lost: Kinds of metadata that the file had and no output has.
    """

    directories: dict[int, Directory] = field(default_factory=dict)
    xmp: bytes = b""
    iptc: bytes = b""
    comment: bytes = b""
    text: Chunks = ()
    lost: tuple[str, ...] = ()

    @property
    def exif(self) -> dict[int, Directory]:
        """Directories without georeference; else empty."""
        main = {number: tag for number, tag in self.directories.get(MAIN, {}).items() if number not in GEOREFERENCE}
        others = {number: tags for number, tags in self.directories.items() if number != MAIN}
        return {MAIN: main, **others} if others or main.keys() - RESOLUTION else {}

    def kinds(self) -> dict[str, bool]:
        """Names of all kinds, True where present."""
        return {
            "EXIF": bool(self.exif),
            "XMP": bool(self.xmp),
            "IPTC": bool(self.iptc),
            "georeference": bool(GEOREFERENCE & self.directories.get(MAIN, {}).keys()),
            "comment": bool(self.comment),
            "text chunks": bool(self.text),
        }


def read_metadata(image: Image.Image, data: bytes, *, size: tuple[int, int], is_turned: bool) -> Metadata:
    """Reads what can be kept of an opened file.

    Args:
        image: As loaded: a PNG may have text behind its pixels.
        data: Bytes of the file.
        size: Height and width of the upright picture.
        is_turned: The samples were turned, so that a georeference is wrong.
    """
    losses: list[str] = []
    directories: dict[int, Directory] = {}
    block = data if image.format == "TIFF" else _exif_block(image)
    if block:
        try:
            directories = read_directories(block, skip=_LAYOUT)
        except ValueError:
            losses.append("its EXIF block or tags (damaged, too large, or of a BigTIFF)")
    main, exif = directories.get(MAIN, {}), directories.get(EXIF, {})
    # XMP and IPTC of a TIFF are tags.
    xmp = _payload(main.pop(_XMP, None)) or _bytes(image.info.get("xmp"))
    iptc = _payload(main.pop(_IPTC, None)) or _bytes(_resources(image).get(0x0404))
    if exif.pop(_MAKER_NOTE, None) is not None:
        losses.append("the camera maker's own EXIF notes (they may show the picture as it was)")
    for number, value in ((_PIXEL_WIDTH, size[1]), (_PIXEL_HEIGHT, size[0])):
        if number in exif:
            exif[number] = Tag(number, 4, struct.pack("<I", value))
    if is_turned and GEOREFERENCE & main.keys():
        losses.append("its georeference (the picture was turned)")
        directories[MAIN] = {number: tag for number, tag in main.items() if number not in GEOREFERENCE}
    # XMP that speaks of other pictures in the file, and previews.
    if _STALE_XMP.search(xmp):
        losses.append("its XMP (it speaks of previews or other pictures in the file)")
        xmp = _source_mark(xmp)
    if _IPTC_PREVIEW in iptc:
        losses.append("its IPTC records (they hold a preview)")
        iptc = b""
    if _CREDENTIALS in data[:65536]:
        losses.append("its content credentials (they vouch for the picture as it was)")
    if image.format == "JPEG2000" and any(name in data[: data.find(b"jp2c")] for name in (b"uuid", b"xml ")):
        losses.append("the metadata boxes of the JPEG 2000")
    text, has_raw_profiles = _text(data) if image.format == "PNG" else ((), False)
    if has_raw_profiles:
        losses.append("raw profiles in its text chunks")
    return Metadata(
        directories={number: tags for number, tags in directories.items() if tags},
        xmp=_XMP_ORIENTATION.sub(rb"\g<1>1", xmp),
        iptc=iptc,
        comment=_bytes(image.info.get("comment")) if image.format in ("JPEG", "MPO", "GIF") else b"",
        text=text,
        lost=tuple(losses),
    )


def _source_mark(xmp: bytes) -> bytes:
    """A packet of the mark of a picture's source alone.

    A mark of generated or edited pictures must not be lost with the rest.
    """
    match = _SOURCE_TYPE.search(xmp)
    if match is None:
        return b""
    return (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
        b'Iptc4xmpExt:DigitalSourceType="%s"/></rdf:RDF></x:xmpmeta>' % match[1]
    )


def with_comment_as_text(metadata: Metadata) -> Metadata:
    """Moves the comment to a PNG's text chunk."""
    if not metadata.comment:
        return metadata
    body = b"Comment\0" + metadata.comment.decode("utf-8", "replace").encode("latin-1", "replace")
    return replace(metadata, comment=b"", text=(*metadata.text, (b"tEXt", body)))


def tags_of_tiff(metadata: Metadata) -> dict[int, Directory]:
    """Directories for a TIFF, with XMP and IPTC.

    Its resolution is written with the samples.
    """
    main = {number: tag for number, tag in metadata.directories.get(MAIN, {}).items() if number not in RESOLUTION}
    if metadata.xmp:
        main[_XMP] = Tag(_XMP, 1, metadata.xmp)
    if metadata.iptc:
        main[_IPTC] = Tag(_IPTC, 7, metadata.iptc)
    directories = {**metadata.directories, MAIN: main}
    return directories if any(directories.values()) else {}


def loss_note(metadata: Metadata, form: str, kept: Iterable[str]) -> str:
    """Says what a format does not keep; else empty."""
    keeps = set(kept)
    names = [name for name, is_there in metadata.kinds().items() if is_there and name not in keeps]
    return f"its metadata ({', '.join(names)}) is lost in {form}" if names else ""


def _exif_block(image: Image.Image) -> bytes:
    block = _bytes(image.info.get("exif"))
    if not block and isinstance(image.info.get(_RAW_EXIF), str):
        # A line break, the kind, the length, then the digits.
        try:
            block = bytes.fromhex("".join(str(image.info[_RAW_EXIF]).split("\n")[3:]))
        except ValueError:
            return b""
    return block.removeprefix(b"Exif\0\0")


def _text(data: bytes) -> tuple[Chunks, bool]:
    """Plain text chunks; True if there are raw profiles."""
    chunks = text_chunks(data)
    plain = tuple(
        (name, body) for name, body in chunks if not body.startswith((b"Raw profile type ", b"XML:com.adobe.xmp\0"))
    )
    return plain, any(body.startswith(b"Raw profile type ") for _, body in chunks)


def _resources(image: Image.Image) -> dict[int, object]:
    """Photoshop's image resources of a JPEG, by number."""
    resources = image.info.get("photoshop")
    return resources if isinstance(resources, dict) else {}


def _payload(tag: Tag | None) -> bytes:
    return tag.payload if tag is not None else b""


def _bytes(value: object) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "replace")
    return value if isinstance(value, bytes) else b""
