"""What TIFF tags and PNG chunks say of the samples: acted on, kept, or said to be lost."""

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from isnet.images.decode import decode_rgb
from isnet.images.photo import Photo, read_photo
from isnet.images.png_chunks import chunk, colour_chunks
from isnet.images.save import encode_photo

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 65536, (20, 30), dtype=np.uint16)
RGBA = RNG.integers(0, 65536, (20, 30, 4), dtype=np.uint16)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
HEAD = 33


def tiff(array, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, array, metadata=None, **options)
    return file.getvalue()


def png(samples, depth, colour_type, *before, after=()):
    """A PNG of (H, W) or (H, W, C) samples; `before` and `after` are chunks around the pixels."""
    height, width = samples.shape[:2]
    if depth < 8:
        places = np.unpackbits(samples.astype(np.uint8)[..., None], axis=2)[..., 8 - depth :]
        rows = [np.packbits(row.ravel()).tobytes() for row in places]
    else:
        rows = [row.astype(f">u{depth // 8}").tobytes() for row in samples]
    parts = [
        chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)),
        *before,
        chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))),
        *after,
        chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_gray_that_counts_down_from_white_is_turned_round_and_said(dtype, compression):
    stored = (GRAY / 65535).astype(dtype) if dtype == np.float32 else (GRAY >> 8 * (2 - dtype().nbytes)).astype(dtype)
    largest = 1 if dtype == np.float32 else np.iinfo(dtype).max
    data = tiff(stored, photometric="miniswhite", compression=compression)
    photo = read_photo(data)
    assert np.array_equal(photo.pixels, largest - stored)
    assert photo.pixels.dtype == dtype
    assert "counts down from white" in photo.notes[0]
    assert np.array_equal(decode_rgb(data), photo.rgb8())
    assert np.array_equal(read_photo(encode_photo(photo, ".tif")[0]).pixels, photo.pixels)


def test_16_bit_colours_multiplied_by_alpha_are_divided_by_it():
    alpha = RGBA[..., 3:].astype(np.int64)
    alpha[:2], alpha[2:4] = 0, 65535
    stored = np.concatenate([RGBA[..., :3] * alpha // 65535, alpha], axis=2).astype(np.uint16)
    photo = read_photo(tiff(stored, photometric="rgb", extrasamples=["assocalpha"]))
    assert photo.mode == "RGBA;16"
    assert "straight" in photo.notes[0]
    assert np.array_equal(photo.pixels[..., 3], alpha[..., 0])
    assert np.array_equal(photo.pixels[2:4], stored[2:4])
    assert not photo.pixels[:2].any()
    exact = np.minimum(stored[4:, :, :3] * 65535.0 / alpha[4:], 65535)
    assert np.abs(photo.pixels[4:, :, :3] - exact).max() <= 0.5


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize(
    ("meaning", "mode", "note"),
    [("assocalpha", "RGBA", "are written as straight"), ("unspecified", "RGB", "left out"), ("unassalpha", "RGBA", "")],
)
def test_a_fourth_channel_that_is_not_kept_as_it_is_is_said(depth, meaning, mode, note):
    samples = RGBA if depth == 16 else (RGBA >> 8).astype(np.uint8)
    photo = read_photo(tiff(samples, photometric="rgb", extrasamples=[meaning]))
    assert photo.mode == mode + (";16" if depth == 16 else "")
    assert note in "".join(photo.notes)
    assert bool(note) == bool(photo.notes)
    if meaning != "assocalpha":
        assert np.array_equal(photo.pixels, samples[..., : len(mode)])


@pytest.mark.parametrize(
    ("dtype", "notes"),
    [
        (np.uint16, ()),
        (np.int8, ("its signed samples were read as unsigned, and are written as such",)),
        (np.int16, ("its signed samples were read as unsigned, and are written as such",)),
        (np.uint32, ("its 32-bit samples are written as 16-bit",)),
    ],
)
def test_samples_of_another_type_are_said(dtype, notes):
    stored = (GRAY >> 9).astype(dtype)
    photo = read_photo(tiff(stored, photometric="minisblack"))
    assert np.array_equal(photo.pixels, stored)
    assert photo.notes == notes


def test_a_palette_with_alpha_beside_it_is_said():
    file = io.BytesIO()
    Image.fromarray((RGBA[..., :3] >> 8).astype(np.uint8)).quantize(9).convert("PA").save(file, "TIFF")
    photo = read_photo(file.getvalue())
    assert (photo.mode, photo.notes) == ("RGBA", ("its palette and alpha are written as RGBA",))


@pytest.mark.parametrize(
    ("depth", "colour_type", "mode"),
    [(1, 0, "LA"), (2, 0, "LA"), (4, 0, "LA"), (8, 0, "LA"), (16, 0, "LA;16"), (8, 2, "RGBA"), (16, 2, "RGBA;16")],
)
def test_the_transparent_colour_of_every_png_becomes_alpha(depth, colour_type, mode):
    samples = RGBA[..., :3] >> (16 - depth) if colour_type == 2 else GRAY >> (16 - depth)
    # the largest: 0 is the same on every scale
    key = samples.reshape(600, -1)[samples.reshape(600, -1)[:, 0].argmax()]
    photo = read_photo(png(samples, depth, colour_type, chunk(b"tRNS", key.astype(">u2").tobytes())))
    assert photo.mode == mode
    assert photo.notes == ("its transparent colour became an alpha channel",)
    transparent = (samples.reshape(20, 30, -1) == key).all(axis=2)
    largest = np.iinfo(photo.pixels.dtype).max
    assert np.array_equal(photo.pixels[..., -1], np.where(transparent, 0, largest))
    assert np.array_equal(photo.rgb8(), decode_rgb(png(samples, depth, colour_type)))
    assert np.array_equal(read_photo(encode_photo(photo, ".png")[0]).pixels, photo.pixels)


def test_a_16_bit_png_shows_the_picture_before_its_animation():
    first, second = RGBA[..., :3], RGBA[..., 1:]
    body = zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in second))
    control, moving = chunk(b"acTL", struct.pack(">II", 2, 0)), []
    for number in (0, 2):
        moving.append(chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, 30, 20, 0, 0, 1, 10, 0, 0)))
        moving.append(chunk(b"fdAT", struct.pack(">I", number + 1) + body))
    data = png(first, 16, 2, control, after=moving)
    assert np.array_equal(read_photo(data).pixels, first)
    assert np.array_equal(decode_rgb(data), first >> 8)


GAMMA_1 = (b"gAMA", struct.pack(">I", 100_000))
GAMMA_SRGB = (b"gAMA", struct.pack(">I", 45_455))
ADOBE = (b"cHRM", struct.pack(">8I", 31_270, 32_900, 64_000, 33_000, 21_000, 71_000, 15_000, 6000))
BT709 = (b"cHRM", struct.pack(">8I", 31_269, 32_899, 63_999, 33_001, 30_000, 60_000, 15_000, 5999))
PLAIN = (b"sRGB", b"\0")
PQ = (b"cICP", bytes([9, 16, 0, 1]))
CODES = (b"cICP", bytes([1, 13, 0, 1]))


@pytest.mark.parametrize(
    ("chunks", "icc", "lost"),
    [
        ((GAMMA_1,), None, "gAMA"),
        ((GAMMA_SRGB, ADOBE), None, "cHRM"),
        ((GAMMA_1, ADOBE), None, "gAMA and cHRM"),
        ((PQ,), None, "cICP"),
        ((PQ,), SRGB, "cICP"),
        # what means sRGB, and what something else overrules
        ((GAMMA_SRGB, BT709), None, ""),
        ((PLAIN, GAMMA_1), None, ""),
        ((CODES, ADOBE), None, ""),
        ((GAMMA_1,), SRGB, ""),
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "RGB;16"])
def test_what_a_png_says_of_its_colours_stays_in_a_png_and_is_missed_elsewhere(mode, chunks, icc, lost):
    pixels = RGBA[..., :3] if mode == "RGB;16" else (RGBA[..., :3] >> 8).astype(np.uint8)
    data, _ = encode_photo(Photo(pixels=pixels, mode=mode, icc=icc), ".png")
    photo = read_photo(data[:HEAD] + b"".join(chunk(*one) for one in chunks) + data[HEAD:])
    again, notes = encode_photo(photo, ".png")
    assert notes == ()
    assert colour_chunks(again) == chunks
    assert read_photo(again).icc == icc
    assert np.array_equal(read_photo(again).pixels, pixels)
    _, notes = encode_photo(photo, ".tif")
    assert notes == ((f"what its {lost} said of its colours is lost: they are shown as sRGB",) if lost else ())


def test_a_png_with_a_profile_gets_no_srgb_chunk():
    photo = Photo(pixels=(RGBA[..., :3] >> 8).astype(np.uint8), mode="RGB", icc=SRGB, colours=(PLAIN,))
    data, _ = encode_photo(photo, ".png")
    assert read_photo(data).icc == SRGB
    assert colour_chunks(data) == ()
