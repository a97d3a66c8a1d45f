"""Metadata goes from each format to each other one that holds it; else a note says what is lost."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, PngImagePlugin

from isnet.images.decode import decode_rgb
from isnet.images.files import PictureError
from isnet.images.photo import Photo, read_photo
from isnet.images.png_chunks import SIGNATURE, chunk
from isnet.images.save import encode_photo
from isnet.images.tag_blocks import EXIF, GPS, MAIN, Tag, add_tags, build_block, read_directories

RNG = np.random.default_rng(0)
PICTURE = Image.fromarray(RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8))
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" dc:title="t"/></x:xmpmeta>'
UPRIGHT_XMP = XMP.replace(b'"6"', b'"1"')
IPTC = b"\x1c\x02\x05\x00\x05title"


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def camera_exif(orientation=6):
    exif = Image.Exif()
    exif[0x010F], exif[0x0110], exif[0x8298], exif[0x0112] = "Maker", "Camera X", "Copyright Z", orientation
    exif.get_ifd(EXIF).update({0x9003: "2020:01:01 00:00:00", 0xA002: 30, 0xA003: 20, 0x927C: b"preview" * 99})
    exif.get_ifd(GPS).update({1: "N", 2: (52.0, 30.0, 1.5)})
    return exif


def jpeg():
    segment = b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0" + struct.pack(">I", len(IPTC)) + IPTC
    segment += b"8BIM\x04\x0c\0\0" + struct.pack(">I", 8) + b"preview!"
    data = encoded(PICTURE, "JPEG", exif=camera_exif(), xmp=XMP, comment=b"a comment", quality=95)
    return data[:2] + struct.pack(">BBH", 0xFF, 0xED, len(segment) + 2) + segment + data[2:]


def png():
    text = PngImagePlugin.PngInfo()
    text.add_text("Description", "a garden")
    text.add_itxt("Title", "ü", zip=True)
    return encoded(PICTURE, "PNG", pnginfo=text, exif=camera_exif())


def tiff():
    file = io.BytesIO()
    tags = [
        (33550, "d", 3, (1.0, 2.0, 0.0), True),
        (34735, "H", 4, (1, 1, 0, 0), True),
        (700, "B", len(UPRIGHT_XMP), UPRIGHT_XMP, True),
        (33723, "B", len(IPTC), IPTC, True),
        (0x0110, "s", 0, "Camera X", True),
        (330, "I", 1, 8, True),
        (37724, "B", 9, b"old layer", True),
    ]
    tifffile.imwrite(file, np.asarray(PICTURE), photometric="rgb", metadata=None, extratags=tags, byteorder=">")
    return file.getvalue()


def webp():
    return encoded(PICTURE, "WEBP", exif=camera_exif(1), xmp=XMP, lossless=True)


def avif():
    return encoded(PICTURE, "AVIF", exif=camera_exif(1), xmp=XMP, quality=100)


def gif():
    return encoded(PICTURE.quantize(), "GIF", comment=b"a comment")


SOURCES = {"JPEG": jpeg, "PNG": png, "TIFF": tiff, "WebP": webp, "AVIF": avif, "GIF": gif}
HELD = {
    ".jpg": {"EXIF", "XMP", "IPTC", "comment"},
    ".png": {"EXIF", "XMP", "comment", "text chunks"},
    ".tif": {"EXIF", "XMP", "IPTC", "georeference"},
    ".webp": {"EXIF", "XMP"},
    ".bmp": set(),
    ".jp2": set(),
}


def values(photo: Photo) -> dict:
    """What is to be the same before and after."""
    metadata = photo.metadata
    exif = metadata.exif
    main = {number: tag.payload for number, tag in exif.get(MAIN, {}).items() if number not in (282, 283, 296)}
    return {
        "EXIF": (main, *({n: tag.payload for n, tag in exif.get(place, {}).items()} for place in (EXIF, GPS))),
        "XMP": metadata.xmp,
        "IPTC": metadata.iptc,
        "georeference": {n: t.payload for n, t in metadata.directories.get(MAIN, {}).items() if n in (33550, 34735)},
        "comment": metadata.comment,
        "text chunks": dict(metadata.text) and [body for _, body in metadata.text],
    }


@pytest.mark.parametrize("suffix", HELD)
@pytest.mark.parametrize("source", SOURCES)
def test_each_format_keeps_what_it_holds_and_says_what_it_loses(source, suffix):
    photo = read_photo(SOURCES[source]())
    has = {kind for kind, is_there in photo.metadata.kinds().items() if is_there}
    data, notes = encode_photo(photo, suffix)
    again = read_photo(data)
    for kind in has & HELD[suffix] - {"comment"}:
        assert values(again)[kind] == values(photo)[kind], kind
    if "comment" in has and suffix == ".jpg":
        assert again.metadata.comment == photo.metadata.comment
    if "comment" in has and suffix == ".png":
        assert Image.open(io.BytesIO(data)).text["Comment"] == "a comment"
    told = " ".join(notes)
    assert all((kind in told) == (kind not in HELD[suffix]) for kind in has), told
    # The samples are upright, so nothing may say that they are still to be turned.
    assert again.orientation == 1
    assert again.size == photo.size


def test_the_sources_have_what_the_test_is_about():
    found = {name: {kind for kind, there in read_photo(make()).metadata.kinds().items() if there} for name, make in
             SOURCES.items()}  # fmt: skip
    assert found == {
        "JPEG": {"EXIF", "XMP", "IPTC", "comment"},
        "PNG": {"EXIF", "text chunks"},
        "TIFF": {"EXIF", "XMP", "IPTC", "georeference"},
        "WebP": {"EXIF", "XMP"},
        "AVIF": {"EXIF", "XMP"},
        "GIF": {"comment"},
    }


def test_values_are_those_that_other_programs_read():
    photo = read_photo(jpeg())
    for suffix in (".jpg", ".png", ".tif", ".webp"):
        image = Image.open(io.BytesIO(encode_photo(photo, suffix)[0]))
        exif = image.getexif()
        assert (exif[0x0110], exif[0x8298]) == ("Camera X", "Copyright Z")
        # The picture was turned, and so were its sides.
        assert dict(exif.get_ifd(EXIF)) == {0x9003: "2020:01:01 00:00:00", 0xA002: 20, 0xA003: 30}
        assert dict(exif.get_ifd(GPS)) == {1: "N", 2: (52.0, 30.0, 1.5)}
        assert image.info.get("xmp", exif.get(700)) == UPRIGHT_XMP
    assert Image.open(io.BytesIO(encode_photo(photo, ".jpg")[0])).info["photoshop"] == {0x0404: IPTC}


def test_a_deep_tiff_keeps_its_georeference():
    file = io.BytesIO()
    deep = RNG.integers(0, 65536, (20, 30, 3), dtype=np.uint16)
    tifffile.imwrite(file, deep, photometric="rgb", extratags=[(33550, "d", 3, (1.0, 2.0, 0.0), True)])
    data, notes = encode_photo(read_photo(file.getvalue()), ".tif")
    with tifffile.TiffFile(io.BytesIO(data)) as read:
        assert read.pages[0].tags[33550].value == (1.0, 2.0, 0.0)
        assert np.array_equal(read.asarray(), deep)
    assert notes == ()


def test_nothing_that_shows_the_picture_before_the_hole_is_kept():
    exif = camera_exif(1)
    # A thumbnail in a second directory, as cameras write it.
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    order = "<" if block.startswith(b"II") else ">"
    (start,) = struct.unpack_from(f"{order}I", block, 4)
    (count,) = struct.unpack_from(f"{order}H", block, start)
    at = start + 2 + 12 * count
    second = struct.pack(f"{order}HHHIIHHIII", 2, 0x0201, 4, 1, len(block) + 30, 0x0202, 4, 1, 9, 0)
    block = block[:at] + struct.pack(f"{order}I", len(block)) + block[at + 4 :] + second + b"thumbnail"
    data = encoded(PICTURE, "JPEG", exif=b"Exif\0\0" + block, xmp=b"<xmpGImg:image>thumbnail</xmpGImg:image>")
    photo = read_photo(data)
    assert "the camera maker's own EXIF notes" in photo.notes[0]
    assert "its XMP" in photo.notes[0]
    for suffix in HELD:
        written = encode_photo(photo, suffix)[0]
        assert b"thumbnail" not in written
        assert b"preview" not in written
    layered = encode_photo(read_photo(tiff()), ".tif")[0]
    assert b"old layer" not in layered
    assert b"preview" not in encode_photo(read_photo(jpeg()), ".jpg")[0]


def test_a_georeference_of_a_turned_picture_is_left_out():
    file = io.BytesIO()
    tags = [(274, "H", 1, 6, True), (33550, "d", 3, (1.0, 2.0, 0.0), True)]
    tifffile.imwrite(file, np.asarray(PICTURE), photometric="rgb", metadata=None, extratags=tags)
    photo = read_photo(file.getvalue())
    assert photo.size == (30, 20)
    assert "its georeference (the picture was turned)" in photo.notes[0]
    assert not photo.metadata.kinds()["georeference"]


def test_what_is_too_long_for_a_jpeg_is_said():
    exif = camera_exif(1)
    exif[0x010E] = "x" * 70_000
    data = encoded(PICTURE, "PNG", exif=exif)
    written, notes = encode_photo(read_photo(data), ".jpg")
    assert any("EXIF) is lost: too long for JPEG" in note for note in notes)
    assert not Image.open(io.BytesIO(written)).getexif()


DAMAGED = {
    "no end": b"II*\0\xff\xff\xff\xff",
    "no entries": b"II*\0\x08\0\0\0",
    "too many entries": b"II*\0\x08\0\0\0\xff\xff" + bytes(99),
    "a value behind the end": b"MM\0*\0\0\0\x08\0\x01\x01\x10\0\x02\0\0\xff\xff\0\0\xff\xff\0\0\0\0",
    "no order": b"XX*\0\x08\0\0\0",
    "big": b"II+\0\x08\0\0\0" + bytes(50),
    "GPS that leads to itself": build_block({MAIN: {GPS: Tag(GPS, 4, struct.pack("<I", 8))}}),
}


@pytest.mark.parametrize("block", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_exif_block_loses_itself_alone(block):
    head = encoded(PICTURE, "JPEG")
    body = b"Exif\0\0" + block
    photo = read_photo(head[:2] + struct.pack(">BBH", 0xFF, 0xE1, len(body) + 2) + body + head[2:])
    assert photo.size == (20, 30)
    encode_photo(photo, ".jpg")


def test_entries_that_overlap_take_no_more_memory_than_allowed():
    entries = b"".join(struct.pack("<HHII", 40000 + n, 7, 1 << 20, 0) for n in range(1000))
    block = b"II*\0\x08\0\0\0" + struct.pack("<H", 1000) + entries + bytes(1 << 20)
    with pytest.raises(ValueError, match="bytes"):
        read_directories(block)


@pytest.mark.parametrize("order", ["<", ">"])
def test_tags_are_read_in_both_byte_orders_and_written_in_one(order):
    head = b"II*\0" if order == "<" else b"MM\0*"
    numbers = struct.pack(f"{order}3H", 1, 2, 3)
    entry = struct.pack(f"{order}HHII", 50000, 3, 3, 8 + 2 + 24 + 4) + struct.pack(f"{order}HHIHH", 50001, 3, 1, 7, 0)
    block = head + struct.pack(f"{order}IH", 8, 2) + entry + bytes(4) + numbers
    tags = {50000: Tag(50000, 3, struct.pack("<3H", 1, 2, 3)), 50001: Tag(50001, 3, struct.pack("<H", 7))}
    assert read_directories(block) == {MAIN: tags}
    assert read_directories(build_block({MAIN: tags})) == {MAIN: tags}
    whole = add_tags(encoded(PICTURE, "TIFF"), {MAIN: tags, GPS: tags})
    found = read_directories(whole)
    assert {number: found[MAIN][number] for number in tags} == tags
    assert found[GPS] == tags
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(whole))), np.asarray(PICTURE))


def png_with(*chunks):
    data = encoded(PICTURE, "PNG")
    return data[:33] + b"".join(chunk(name, body) for name, body in chunks) + data[33:]


LONG = b"0123456789" * 300_000
LONG_TEXT = {
    "zTXt": (b"zTXt", b"workflow\0\0" + zlib.compress(LONG)),
    "iTXt, compressed": (b"iTXt", b"workflow\0\1\0en\0w\0" + zlib.compress(LONG)),
    "iTXt, plain": (b"iTXt", b"workflow\0\0\0\0\0" + LONG),
    "tEXt": (b"tEXt", b"workflow\0" + LONG),
}


@pytest.mark.parametrize("text", LONG_TEXT.values(), ids=LONG_TEXT.keys())
def test_a_png_with_long_text_is_read_and_keeps_it(text):
    data = png_with(text)
    assert np.array_equal(decode_rgb(data), np.asarray(PICTURE))
    photo = read_photo(data)
    assert np.array_equal(photo.pixels, np.asarray(PICTURE))
    written, notes = encode_photo(photo, ".png")
    assert notes == ()
    assert chunk(*text) in written
    assert np.array_equal(read_photo(written).pixels, np.asarray(PICTURE))


def test_much_text_of_a_png_is_none_of_its_pixels_and_a_bomb_is_refused():
    large = zlib.compress(bytes(8 << 20))
    data = png_with(*[(b"zTXt", b"k%d\0\0" % n + large) for n in range(7)])
    assert np.array_equal(read_photo(data).pixels, np.asarray(PICTURE))
    bomb = png_with((b"zTXt", b"k\0\0" + zlib.compress(bytes(300 << 20))))
    tracemalloc.start()
    try:
        with pytest.raises(PictureError, match="damaged"):
            read_photo(bomb)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_text_behind_the_pixels_and_damaged_text_lose_no_picture():
    data = encoded(PICTURE, "PNG")
    data = data[:-12] + chunk(b"zTXt", b"late\0\0" + zlib.compress(LONG)) + data[-12:]
    assert np.array_equal(read_photo(data).pixels, np.asarray(PICTURE))
    for body in (b"", b"k", b"k\0", b"k\0\0notzlib", b"k\0\1\0", b"k\0\1\0\0\0notzlib"):
        for name in (b"zTXt", b"iTXt", b"tEXt"):
            read_photo(png_with((name, body)))
    wrong = png_with((b"tEXt", b"Title\0of a garden")).replace(b"of a garden", b"of a forest")
    assert np.array_equal(read_photo(wrong).pixels, np.asarray(PICTURE))


def test_a_large_profile_of_a_jpeg_is_read_again_from_the_png():
    profile = RNG.bytes(1_500_000)
    photo = read_photo(encoded(PICTURE, "JPEG", icc_profile=profile))
    assert photo.icc == profile
    written = encode_photo(photo, ".png")[0]
    assert written.startswith(SIGNATURE)
    again = read_photo(written)
    assert again.icc == profile
    assert np.array_equal(decode_rgb(written), again.pixels)
    assert read_photo(encode_photo(again, ".png")[0]).icc == profile


def test_a_profile_that_inflates_without_end_is_left_out():
    data = png_with((b"iCCP", b"p\0\0" + zlib.compress(bytes(64 << 20))))
    photo = read_photo(data)
    assert photo.icc is None
    assert any("colour profile" in note for note in photo.notes)


@pytest.mark.parametrize(
    "mark",
    [
        b'Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"',
        b'x="y"><Iptc4xmpExt:DigitalSourceType rdf:resource="http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/',
    ],
)
def test_mark_of_a_generated_picture_outlives_the_rest_of_its_xmp(mark: bytes) -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description hdrgm:Version="1" %s></x:xmpmeta>' % mark
    data = encoded(PICTURE, "JPEG", xmp=xmp, quality=95)
    metadata = read_photo(data).metadata
    assert b"digitalsourcetype/trainedAlgorithmicMedia" in metadata.xmp
    assert b"hdrgm" not in metadata.xmp
