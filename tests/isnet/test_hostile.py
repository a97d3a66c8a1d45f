"""Broken and awkward files, all the way: found, read, filled, written, measured; or refused for the right reason.

The first part makes its own files; the second takes a published set, where that lies beside the checkout.
"""

import ast
import csv
import io
import os
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from isnet.images import heif
from isnet.images.decode import decode_rgb
from isnet.images.files import PictureError, display_name, read_bytes
from isnet.images.folders import find_pictures
from isnet.images.photo import read_photo
from isnet.inference.classical import classical
from isnet.inpaint import inpaint
from isnet.mask_files import MaskRules, read_mask
from isnet.masks import box
from isnet.metrics import measure

ARCHIVE = Path(__file__).parents[2].parent / "shared" / "data" / "hostile.tar"
RNG = np.random.default_rng(0)
FILL = classical("telea")


def smooth(height=60, width=80):
    coarse = Image.fromarray(RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_with(width, height, *, body=b"\0" * 9, chunks=()):
    """A PNG whose header promises anything."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(body)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part)) for name, part in parts
    )


def tiff(array, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def fill_and_check(data, folder, suffix=".png"):
    """A picture that can be read is filled, written and read again with its size and known pixels."""
    photo = read_photo(data)
    height, width = photo.size
    assert np.array_equal(decode_rgb(data), photo.rgb8()), "training and use must see the same picture"
    hole = box(height, width, np.random.default_rng(0)) if height * width > 1 else np.ones((1, 1), bool)
    result = inpaint(data, hole, model=FILL)
    assert result.photo.size == (height, width)
    target = folder / f"out{suffix}"
    result.save(target)
    again = read_photo(target)
    assert again.size == (height, width)
    # a float picture becomes 16-bit in a PNG, and is rounded there
    largest = 1 if photo.mode == "F" else 0
    assert np.abs(again.rgb8().astype(int) - photo.rgb8())[~hole].max(initial=0) <= largest
    assert again.icc == photo.icc or photo.mode == "CMYK"
    truth, filled = (
        torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255 for picture in (photo.rgb8(), again.rgb8())
    )
    mask = torch.from_numpy(~hole)[None, None].float()
    for definition in ("isnet", *(["skimage"] if min(height, width) >= 7 else [])):
        found = measure(filled, truth, mask, definition=definition)
        assert all(torch.isfinite(value).all() for value in found.values())
    return result


def broken_exif():
    exif = Image.Exif()
    exif[0x0112] = 1
    data = encoded(smooth(), "JPEG", exif=exif)
    start = data.index(b"Exif\0\0") + 6
    return data[: start + 4] + struct.pack("<I", 0x00FFFFFF) + data[start + 8 :]


GOOD = {
    "PNG": lambda: encoded(smooth()),
    "1x1": lambda: encoded(smooth().resize((1, 1))),
    "strip 2000x1": lambda: encoded(smooth().resize((2000, 1))),
    "strip 3x900": lambda: encoded(smooth().resize((3, 900)), "JPEG"),
    "odd 53x31": lambda: encoded(smooth(31, 53), "JPEG"),
    "all black": lambda: encoded(Image.new("RGB", (40, 40))),
    "all white": lambda: encoded(Image.new("RGB", (40, 40), "white")),
    "CMYK JPEG": lambda: encoded(smooth().convert("CMYK"), "JPEG"),
    "gray JPEG": lambda: encoded(smooth().convert("L"), "JPEG"),
    "progressive JPEG": lambda: encoded(smooth(), "JPEG", progressive=True),
    "JPEG with junk behind": lambda: encoded(smooth(), "JPEG") + RNG.bytes(30_000),
    "JPEG with a broken EXIF block": broken_exif,
    "two-picture JPEG": lambda: encoded(smooth(), "MPO", save_all=True, append_images=[smooth()]),
    "1-bit PNG": lambda: encoded(smooth().convert("1")),
    "2-bit palette PNG": lambda: encoded(smooth().quantize(4)),
    "palette PNG with transparency": lambda: encoded(smooth().quantize(64), transparency=3),
    "gray and alpha PNG": lambda: encoded(smooth().convert("LA")),
    "RGBA PNG with a hole in alpha": lambda: encoded(
        Image.merge("RGBA", [*smooth().split(), Image.fromarray(np.tile([0, 255], (60, 40)).astype(np.uint8))])
    ),
    "RGBA WebP": lambda: encoded(smooth().convert("RGBA"), "WEBP", lossless=True),
    "animated GIF": lambda: encoded(smooth().quantize(), "GIF", save_all=True, append_images=[smooth().quantize()]),
    "animated PNG": lambda: encoded(smooth(), "PNG", save_all=True, append_images=[smooth()]),
    "animated WebP": lambda: encoded(smooth(), "WEBP", save_all=True, append_images=[smooth()]),
    "16-bit gray PNG": lambda: encoded(Image.fromarray(RNG.integers(0, 65536, (20, 30), dtype=np.uint16))),
    "16-bit big-endian TIFF": lambda: tiff(RNG.integers(0, 65536, (20, 30), dtype=np.uint16), byteorder=">"),
    "16-bit RGB TIFF": lambda: tiff(RNG.integers(0, 65536, (20, 30, 3), dtype=np.uint16), photometric="rgb"),
    "two-page TIFF": lambda: encoded(smooth(), "TIFF", save_all=True, append_images=[smooth()]),
    "fax TIFF": lambda: encoded(smooth().convert("1"), "TIFF", compression="group4"),
    "JPEG in TIFF": lambda: encoded(smooth(), "TIFF", compression="jpeg"),
    "float TIFF in 0 to 1": lambda: tiff(RNG.random((20, 30)).astype(np.float32)),
    "32-bit integer TIFF": lambda: encoded(Image.fromarray(RNG.integers(0, 65536, (20, 30), dtype=np.int32)), "TIFF"),
    "BMP": lambda: encoded(smooth(), "BMP"),
    "GIF": lambda: encoded(smooth().quantize(), "GIF"),
    "PPM": lambda: encoded(smooth(), "PPM"),
    "16-bit PGM": lambda: b"P5 4 3 65535 " + RNG.bytes(24),
    "JPEG 2000": lambda: encoded(smooth(), "JPEG2000"),
    "AVIF": lambda: encoded(smooth(), "AVIF"),
    "YCbCr TIFF": lambda: encoded(smooth().convert("YCbCr"), "TIFF"),
    "odd profile": lambda: encoded(smooth(), "JPEG", icc_profile=b"not a profile at all"),
}  # fmt: skip


@pytest.mark.parametrize("what", GOOD)
def test_awkward_pictures_are_filled(what, tmp_path):
    result = fill_and_check(GOOD[what](), tmp_path)
    assert result.image.ndim in (2, 3)


def test_an_interlaced_picture_is_read(tmp_path):
    # Adam7 of a 1x1 picture is one pass: the smallest file that has it.
    head = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 1)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0\x0a\x14\x1e")), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part)) for name, part in parts
    )
    assert decode_rgb(data).tolist() == [[[10, 20, 30]]]


def flipped(data, place):
    changed = bytearray(data)
    changed[int(len(data) * place)] ^= 0x40
    return bytes(changed)


# Only who reads HEIC can say that one is damaged.
BAD_HEIC = "damaged" if heif.can_read() else "unsupported"

BAD = {
    "no bytes": (lambda: b"", "empty"),
    "one byte": (lambda: b"\xff", "not a picture"),
    "a cut JPEG": (lambda: encoded(smooth(200, 200), "JPEG")[:-900], "truncated"),
    "a JPEG cut in its header": (lambda: encoded(smooth(), "JPEG")[:40], "truncated"),
    "a JPEG cut and closed": (lambda: encoded(smooth(200, 200), "JPEG")[:-900] + b"\xff\xd9", "truncated"),
    "a cut PNG": (lambda: encoded(smooth())[:-2000], "truncated"),
    "a PNG with a flipped bit": (lambda: flipped(encoded(smooth()), 0.5), "damaged"),
    "a cut GIF": (lambda: encoded(smooth().quantize(), "GIF")[:1500], "truncated"),
    "a cut BMP": (lambda: encoded(smooth(), "BMP")[:5000], "truncated"),
    "a cut WebP": (lambda: encoded(smooth(), "WEBP")[:200], "damaged"),
    "a cut TIFF": (lambda: tiff(np.zeros((40, 40, 3), np.uint8), photometric="rgb")[:3000], "truncated"),
    "a web page": (lambda: b"<html><body>503 Service Unavailable</body></html>", "not a picture"),
    "an SVG": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
    "a PDF": (lambda: b"%PDF-1.7\n" + b" " * 90, "not a picture"),
    "a zip": (lambda: b"PK\x03\x04" + b"\0" * 90, "not a picture"),
    "HEIC": (lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 90, BAD_HEIC),
    "PostScript": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n", "not a picture"),
    "text that starts like a picture": (lambda: b"\x89PNG\r\n\x1a\nhello", "not a picture"),
    "a bomb of 100 megapixels": (lambda: png_with(10_000, 10_000), "too large"),
    "a bomb of 10 gigapixels": (lambda: png_with(100_000, 100_000), "too large"),
    "a real bilevel bomb": (lambda: encoded(Image.new("1", (30_000, 4_000))), "too large"),
    "a text bomb": (
        lambda: png_with(2, 1, body=b"\0" * 7, chunks=[(b"zTXt", b"k\0\0" + zlib.compress(b"x" * (80 << 20)))]),
        "damaged",
    ),
    "a header of nothing": (lambda: png_with(0, 10), "not a picture"),
    "float beyond 1": (lambda: tiff((RNG.random((9, 9)) * 300).astype(np.float32)), "unsupported"),
    "float with NaN": (lambda: tiff(np.full((9, 9), np.nan, np.float32)), "unsupported"),
    "16-bit RGB TIFF in planes": (
        lambda: tiff(np.zeros((3, 20, 30), np.uint16), photometric="rgb", planarconfig="separate"),
        "unsupported",
    ),
    "float RGB": (lambda: tiff(RNG.random((9, 9, 3)).astype(np.float32), photometric="rgb"), "unsupported"),
    "negative integers": (lambda: encoded(Image.fromarray(np.full((9, 9), -5, np.int32)), "TIFF"), "unsupported"),
    "large integers": (lambda: encoded(Image.fromarray(np.full((9, 9), 1 << 20, np.int32)), "TIFF"), "unsupported"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_broken_pictures_are_refused_for_the_right_reason(what):
    make, kind = BAD[what]
    data = make()
    messages = []
    for read in (decode_rgb, read_photo, read_mask):
        with pytest.raises(PictureError) as caught:
            read(data)
        messages.append((caught.value.kind, str(caught.value)))
    assert {found for found, _ in messages} == {kind}
    assert all("\n" not in message and len(message) < 400 for _, message in messages)


def test_random_damage_is_refused_or_decoded_never_a_crash():
    rng = np.random.default_rng(0)
    originals = [encoded(smooth(30, 40), kind) for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")]
    originals += [tiff(RNG.integers(0, 65536, (9, 9, 3), dtype=np.uint16), photometric="rgb")]
    refused = 0
    for _ in range(400):
        data = bytearray(originals[int(rng.integers(len(originals)))])
        start = int(rng.integers(len(data)))
        data[start : start + 20] = rng.bytes(int(rng.integers(1, 20)))
        try:
            assert read_photo(bytes(data), max_pixels=1 << 20).rgb8().ndim == 3
        except PictureError:
            refused += 1
    assert refused > 100


def test_a_flipped_bit_anywhere_in_the_pixels_of_a_png_is_noticed():
    data = encoded(smooth(20, 30))
    start, end = data.index(b"IDAT") + 4, data.index(b"IEND") - 4
    for place in range(start, end):
        changed = bytearray(data)
        changed[place] ^= 1 << (place % 8)
        with pytest.raises(PictureError, match="damaged: PNG of 30x20: part IDAT fails its checksum"):
            decode_rgb(bytes(changed))


def test_lab_pictures_are_converted():
    gray = decode_rgb(encoded(Image.new("LAB", (9, 9), (200, 128, 128)), "TIFF"))
    assert np.ptp(gray) <= 2


# The published set: what HOSTILE.csv says of each file, as what must happen here.
REFUSED = {
    "truncated_60pct.jpg": "truncated",
    "truncated_header.jpg": "truncated",
    "truncated.png": "truncated",
    "bad_crc.png": "damaged",
    "zero_byte.jpg": "empty",
    "zero_byte.png": "empty",
    "html_named.jpg": "not a picture",
    "bomb_header.png": "too large",
    "bomb_real_bilevel_30000.png": "too large",
    "dangling_link.jpg": "missing",
    "mask_truncated.png": "truncated",
    "directory.jpg": "not a file",
}
LEFT_OUT = {"zero_byte.jpg", "zero_byte.png", "dangling_link.jpg", "escape_link.jpg", "directory.jpg"}
SIZES = {
    "one_by_one.png": (1, 1),
    "strip_4000x1.png": (1, 4000),
    "strip_3x2000.jpg": (2000, 3),
    "odd_253x131.jpg": (131, 253),
    "exif_orientation_3.jpg": (300, 400),
    "exif_orientation_8.jpg": (300, 400),
    "animated.gif": (120, 160),
    "animated.webp": (120, 160),
    "animated.png": (120, 160),
}
UPRIGHT = "UPPER.JPG"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    if not ARCHIVE.exists():
        pytest.skip("the published set is not beside the checkout")
    folder = tmp_path_factory.mktemp("published")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="fully_trusted")
    return folder / "hostile"


@pytest.fixture(scope="module")
def names(published):
    with open(published / "HOSTILE.csv", newline="", encoding="utf-8") as file:
        written = [row["file_bytes_repr"] for row in csv.DictReader(file)]
    # Names stand there as Python writes bytes.
    found = [ast.literal_eval('b"' + name.replace('"', '\\"') + '"').decode() for name in written]
    assert len(found) == 53
    return [name.rstrip("/") for name in found]


def test_published_files_are_found_under_their_names(published, names):
    found, skipped = find_pictures(published)
    assert {path.name for path in found} == set(names) - LEFT_OUT
    assert {entry.path.name for entry in skipped} == LEFT_OUT
    assert all(entry.reason for entry in skipped)
    assert all(display_name(path).isprintable() for path in found)


def test_published_broken_files_are_refused(published):
    for name, kind in REFUSED.items():
        for read in (lambda path: decode_rgb(read_bytes(path)), read_photo, read_mask):
            with pytest.raises(PictureError) as caught:
                read(published / name)
            assert caught.value.kind == kind, name


def test_published_awkward_files_are_filled_and_keep_what_they_have(published, names, tmp_path):
    for name in sorted(set(names) - set(REFUSED) - {"escape_link.jpg"}):
        result = fill_and_check(read_bytes(published / name), tmp_path)
        if name in SIZES:
            assert result.photo.size == SIZES[name], name
    assert read_photo(published / "icc_profile.jpg").icc is not None
    assert read_photo(published / "rgb16.png").pixels.dtype == np.uint16
    assert read_photo(published / "rgba_hole.png").mode == "RGBA"


def test_published_variants_of_one_photo_look_alike(published):
    expected = decode_rgb(read_bytes(published / UPRIGHT)).astype(int)
    alike = [
        "jpg_named.png",
        "png_named.jpg",
        "webp_named.jpeg",
        "trailing_garbage.jpg",
        "exif_broken.jpg",
        "rgb16.png",
    ]
    alike += ["exif_orientation_3.jpg", "exif_orientation_8.jpg", "icc_profile.jpg", "rgba_hole.png", "cmyk.jpg"]
    for name in alike:
        found = decode_rgb(read_bytes(published / name)).astype(int)
        assert np.abs(found - expected).mean() < 12, name
    gray = expected @ np.array([0.299, 0.587, 0.114])
    for name in ["gray.jpg", "gray_alpha.png", "float32.tiff"]:
        assert np.abs(decode_rgb(read_bytes(published / name))[..., 0] - gray).mean() < 12, name


def test_published_masks_agree_or_say_why_not(published):
    reference = read_mask(published / "mask_ok_512.png")
    assert reference.notes == ()
    for name in ("mask_rgb.png", "mask_red_on_black.png", "mask_in_alpha.png"):
        assert np.array_equal(read_mask(published / name).hole, reference.hole), name
    assert "alpha" in read_mask(published / "mask_in_alpha.png").notes[0]
    inverted = read_mask(published / "mask_inverted.png")
    assert "inverted" in inverted.notes[0]
    assert np.array_equal(
        read_mask(published / "mask_inverted.png", rules=MaskRules(hole="black")).hole, reference.hole
    )
    antialiased = read_mask(published / "mask_antialiased.png")
    assert antialiased.ratio == pytest.approx(reference.ratio, abs=0.01)
    assert read_mask(published / "mask_full.png").ratio == 1
    with pytest.raises(ValueError, match=r"mask is 640x200 and picture 400x300"):
        inpaint(published / UPRIGHT, published / "mask_wrong_size_640x200.png", model=FILL)
    resized = inpaint(published / UPRIGHT, published / "mask_wrong_size_640x200.png", model=FILL, resize_mask=True)
    assert resized.ratio == pytest.approx(0.2148, abs=0.005)


def test_published_names_survive_to_the_output(published, names, tmp_path):
    odd = [name for name in names if not name.isascii() or name.startswith(("new", "spaces", "-rf", "comma", "xxx"))]
    mask = np.zeros((300, 400), bool)
    mask[100:150, 100:200] = True
    assert len(odd) > 5
    for name in odd:
        inpaint(published / name, mask, model=FILL).save(tmp_path / name)
        assert (tmp_path / name).exists()
        assert os.listdir(tmp_path).count(name) == 1
