"""Pictures of more than 8 bits keep their samples, or a note says that they do not."""

import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from isnet.errors import InputError
from isnet.images.decode import decode_rgb
from isnet.images.depth import avif_colour_codes
from isnet.images.photo import photo_of_array, read_photo
from isnet.images.save import encode_photo

DEEP = np.random.default_rng(1).integers(0, 65536, (64, 96, 3), dtype=np.uint16)


def by_opencv(suffix, samples, *options):
    if samples.ndim == 3:
        samples = np.ascontiguousarray(samples[..., ::-1])
    done, data = cv2.imencode(suffix, samples, list(options))
    assert done
    return data.tobytes()


LOSSLESS = (cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000)


def ppm(largest):
    return b"P6\n# a comment\n96 64\n%d\n" % largest + (DEEP & largest).astype(">u2").tobytes()


@pytest.mark.parametrize("data", [ppm(65535), by_opencv(".jp2", DEEP, *LOSSLESS)], ids=["PPM", "JPEG 2000"])
def test_sixteen_bits_are_kept_into_png_and_tiff(data):
    photo = read_photo(data)
    assert photo.mode == "RGB;16"
    assert photo.notes == ()
    assert np.array_equal(photo.pixels, DEEP)
    assert np.array_equal(decode_rgb(data), photo.rgb8())
    for suffix in (".png", ".tif"):
        written, notes = encode_photo(photo, suffix)
        assert notes == ()
        assert np.array_equal(read_photo(written).pixels, DEEP)
    for suffix in (".jp2", ".bmp", ".webp"):
        notes = encode_photo(photo, suffix)[1]
        assert any("holds no RGB;16 picture like this one; written as RGB" in note for note in notes)


def test_sixteen_bits_of_gray_are_kept():
    for data in (
        by_opencv(".jp2", DEEP[..., 0], *LOSSLESS),
        b"P5 96 64 65535\n" + DEEP[..., 0].astype(">u2").tobytes(),
    ):
        photo = read_photo(data)
        assert (photo.mode, photo.notes) == ("I;16", ())
        assert np.array_equal(photo.pixels, DEEP[..., 0])


def plain_ppm():
    return b"P3 2 1 65535\n1 2 3 65535 500 6\n"


@pytest.mark.parametrize(
    ("data", "note"),
    [
        (ppm(1023), "its samples from 0 to 1023 are written as 0 to 255"),
        (plain_ppm(), "its samples from 0 to 65535 are written as 0 to 255"),
        (b"P5 4 3 1000 " + bytes(24), "its samples from 0 to 1000 are written as 0 to 65535"),
        (b"P5 4 3 15 " + bytes(12), "its samples from 0 to 15 are written as 0 to 255"),
    ],
)
def test_samples_that_are_scaled_are_said(data, note):
    assert note in read_photo(data).notes


def test_plain_formats_have_no_note():
    for data in (b"P5 4 3 255 " + bytes(12), b"P4 8 2 \0\0", b"P6 2 1 255 " + bytes(6)):
        assert read_photo(data).notes == ()


def test_a_deep_ppm_that_is_cut_short_is_refused():
    with pytest.raises(InputError, match="ends too early"):
        read_photo(ppm(65535)[:-1])


@pytest.mark.parametrize("bits", [10, 12])
def test_an_avif_of_more_bits_says_that_they_are_lost(bits):
    try:
        data = by_opencv(".avif", DEEP >> (16 - bits), cv2.IMWRITE_AVIF_DEPTH, bits, cv2.IMWRITE_AVIF_QUALITY, 100)
    except cv2.error:
        pytest.skip("this OpenCV writes no AVIF")
    assert any(f"its {bits}-bit samples were read as 8-bit" in note for note in read_photo(data).notes)


def avif(**options):
    file = io.BytesIO()
    Image.fromarray((DEEP >> 8).astype(np.uint8)).save(file, "AVIF", **options)
    return file.getvalue()


def test_a_plain_avif_has_no_note():
    assert read_photo(avif()).notes == ()


def test_the_colours_of_an_avif_go_into_a_png_and_are_said_elsewhere():
    data = avif()
    at = data.index(b"colrnclx") + 8
    # Primaries of BT.2020 and the curve PQ, as of a film with a high dynamic range.
    wide = data[:at] + struct.pack(">HH", 9, 16) + data[at + 4 :]
    assert avif_colour_codes(data) == b""
    photo = read_photo(wide)
    assert photo.colours == ((b"cICP", bytes([9, 16, 0, 1])),)
    assert read_photo(encode_photo(photo, ".png")[0]).colours == photo.colours
    assert any("cICP" in note for note in encode_photo(photo, ".tif")[1])


def test_a_profile_of_a_jpeg_2000_is_kept():
    file = io.BytesIO()
    Image.fromarray((DEEP >> 8).astype(np.uint8)).save(file, "JPEG2000")
    data = file.getvalue()
    at = data.index(b"colr") - 4
    (length,) = struct.unpack_from(">I", data, at)
    box = struct.pack(">I", 8 + 3 + 7) + b"colr\x02\0\0profile"
    header = data.index(b"jp2h") - 4
    (whole,) = struct.unpack_from(">I", data, header)
    data = data[:at] + box + data[at + length :]
    data = data[:header] + struct.pack(">I", whole + len(box) - length) + data[header + 4 :]
    photo = read_photo(data)
    assert photo.icc == b"profile"
    assert encode_photo(photo, ".png")[1] == ()


@pytest.mark.parametrize(("suffix", "limit"), [(".webp", 16383), (".jpg", 65500), (".gif", 65535)])
def test_a_picture_too_wide_for_a_format_is_refused_in_a_sentence(suffix, limit):
    gray = np.zeros((1, limit + 1), np.uint8)
    with pytest.raises(
        InputError, match=f"at most {limit} pixels a side, and the picture has {limit + 1}x1; write PNG"
    ):
        encode_photo(photo_of_array(gray), suffix)
    if suffix != ".gif":
        assert encode_photo(photo_of_array(gray[:, :limit].T), suffix)[0]


def test_a_resolution_that_a_format_cannot_hold_is_said():
    file = io.BytesIO()
    Image.new("RGB", (9, 9)).save(file, "PNG", dpi=(300, 300))
    photo = read_photo(file.getvalue())
    assert any("its resolution is lost" in note for note in encode_photo(photo, ".webp")[1])
    assert encode_photo(photo, ".tif")[1] == ()
