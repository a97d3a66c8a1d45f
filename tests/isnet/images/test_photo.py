"""Photos in their own mode: what is read, what filling leaves alone, what each format keeps."""

import io
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from isnet.errors import InputError
from isnet.images.decode import decode_rgb
from isnet.images.files import PictureError
from isnet.images.photo import Photo, photo_of_array, read_photo
from isnet.images.save import encode_photo, write_photo

RNG = np.random.default_rng(0)
HOLE = np.zeros((20, 30), bool)
HOLE[5:12, 8:25] = True
FILL = RNG.random((20, 30, 3)).astype(np.float32)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def samples(mode):
    """Random samples of a mode, 20x30."""
    if mode == "1":
        return RNG.random((20, 30)) < 0.5
    if mode.endswith("F"):
        shape = (20, 30) if mode == "F" else (20, 30, len(mode) - 2)
        return RNG.random(shape).astype(np.float32)
    if mode == "I;16":
        return RNG.integers(0, 65536, (20, 30), dtype=np.uint16)
    if mode.endswith(";16"):
        return RNG.integers(0, 65536, (20, 30, len(mode) - 3), dtype=np.uint16)
    shape = (20, 30) if len(mode) == 1 else (20, 30, len(mode))
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def photo_of(mode, **more):
    if mode == "P":
        palette = RNG.integers(0, 256, (256, 4), dtype=np.uint8)
        palette[:, 3] = 255
        return Photo(pixels=samples("L"), mode="P", palette=palette, **more)
    return Photo(pixels=samples(mode), mode=mode, **more)


KEPT = [
    *((mode, ".png") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "LA;16", "RGB;16", "RGBA;16")),
    *((mode, ".tiff") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F", "RGB;16", "RGBA;16")),
    *((mode, ".webp") for mode in ("RGB", "RGBA")),
    *((mode, ".bmp") for mode in ("1", "L", "P", "RGB")),
    *((mode, ".gif") for mode in ("L", "P")),
    *((mode, ".jp2") for mode in ("L", "LA", "RGB", "RGBA", "I;16")),
]


@pytest.mark.parametrize(("mode", "suffix"), KEPT)
def test_a_lossless_format_keeps_every_known_sample(mode, suffix):
    data, notes = encode_photo(photo_of(mode), suffix)
    assert notes == ()
    original = read_photo(data)
    assert original.mode == mode
    filled = original.filled(FILL, HOLE)
    again_data, notes = encode_photo(filled, suffix)
    assert notes == ()
    again = read_photo(again_data)
    assert (again.mode, again.size) == (mode, (20, 30))
    assert np.array_equal(again.pixels[~HOLE], original.pixels[~HOLE])
    assert np.array_equal(again.plain()[~HOLE], original.plain()[~HOLE])
    assert not np.array_equal(again.pixels[HOLE], original.pixels[HOLE])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK", "RGB;16", "RGBA;16", "RGB;F", "RGBA;F"])
def test_the_hole_holds_the_prediction(mode):
    filled = photo_of(mode).filled(FILL, HOLE).rgb()
    step = {"RGB;16": 1 / 65535, "RGBA;16": 1 / 65535, "RGB;F": 0, "RGBA;F": 0}.get(mode, 1 / 255)
    assert np.abs(filled - FILL)[HOLE].max() <= step / 2 + 1e-6


@pytest.mark.parametrize("mode", ["L", "LA", "I;16", "LA;16", "F", "1"])
def test_gray_photos_take_the_luma(mode):
    gray = FILL @ np.array([0.299, 0.587, 0.114], np.float32)
    found = photo_of(mode).filled(FILL, HOLE).rgb()[..., 0]
    if mode == "1":
        assert np.array_equal(found[HOLE], (gray >= 0.5)[HOLE])
    else:
        assert np.abs(found - gray)[HOLE].max() < 0.0021


@pytest.mark.parametrize("mode", ["LA", "RGBA", "RGBA;16", "RGBA;F"])
def test_alpha_stays_unless_the_whole_hole_was_transparent(mode):
    photo = photo_of(mode)
    assert np.array_equal(photo.filled(FILL, HOLE).pixels[..., -1], photo.pixels[..., -1])
    photo.pixels[..., -1][HOLE] = 0
    filled = photo.filled(FILL, HOLE)
    largest = {"u": np.iinfo(photo.pixels.dtype).max if photo.pixels.dtype.kind == "u" else 0}.get(
        photo.pixels.dtype.kind, 1
    )
    assert (filled.pixels[..., -1][HOLE] == largest).all()
    assert np.array_equal(filled.pixels[~HOLE], photo.pixels[~HOLE])
    assert "opaque" in filled.notes[0]


def test_an_empty_hole_changes_nothing():
    photo = photo_of("RGB")
    assert photo.filled(FILL, np.zeros_like(HOLE)) is photo


def test_palette_photos_get_new_colours_in_free_entries():
    palette = np.array([[0, 0, 0, 255], [255, 255, 255, 255], [9, 9, 9, 0]], np.uint8)
    photo = Photo(pixels=(samples("1")).astype(np.uint8), mode="P", palette=palette)
    filled = photo.filled(FILL, HOLE)
    assert np.array_equal(filled.palette[:3], palette)
    assert len(filled.palette) <= 256
    assert np.abs(filled.rgb() - FILL)[HOLE].mean() < 0.05
    assert (filled.plain()[..., 3][HOLE] == 255).all()
    again = read_photo(encode_photo(filled, ".png")[0])
    assert np.array_equal(again.plain(), filled.plain())


def test_full_palettes_take_the_nearest_opaque_entry():
    photo = photo_of("P")
    photo.palette[100:, 3] = 0
    filled = photo.filled(FILL, HOLE)
    assert np.array_equal(filled.palette, photo.palette)
    assert filled.pixels[HOLE].max() < 100
    colours = photo.palette[:100, :3].astype(int)
    wanted = np.rint(FILL[HOLE] * 255).astype(int)
    distances = ((wanted[:, None] - colours[None]) ** 2).sum(axis=2)
    chosen = np.take_along_axis(distances, filled.pixels[HOLE][:, None].astype(int), axis=1)[:, 0]
    assert np.array_equal(chosen, distances.min(axis=1))


@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_palette_transparency_survives(suffix):
    image = Image.fromarray(samples("RGB")).quantize(32)
    image.info["transparency"] = 5
    file = io.BytesIO()
    image.save(file, suffix[1:].upper(), transparency=5)
    photo = read_photo(file.getvalue())
    assert photo.mode == "P"
    assert photo.palette[:, 3].tolist().count(0) == 1
    filled = photo.filled(FILL, HOLE)
    again = read_photo(encode_photo(filled, suffix)[0])
    assert np.array_equal(again.plain()[~HOLE], photo.plain()[~HOLE])
    assert (again.plain()[..., 3][HOLE] == 255).all()


def test_indices_beyond_the_palette_are_black_and_stay_black():
    image = Image.fromarray(np.full((20, 30), 9, np.uint8))
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette(bytes(range(50, 50 + 30)))
    file = io.BytesIO()
    image.save(file, "PNG")
    data = file.getvalue()
    start = data.index(b"PLTE") - 4
    short = b"PLTE" + bytes([255, 0, 0, 0, 255, 0])
    short = (6).to_bytes(4, "big") + short + zlib.crc32(short).to_bytes(4, "big")
    photo = read_photo(data[:start] + short + data[start + 12 + 30 :])
    assert (photo.rgb8() == 0).all()
    assert (photo.filled(FILL, HOLE).rgb8()[~HOLE] == 0).all()


def test_a_transparent_colour_becomes_alpha():
    pixels = samples("RGB")
    pixels[0, 0] = (1, 2, 3)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", transparency=(1, 2, 3))
    photo = read_photo(file.getvalue())
    assert photo.mode == "RGBA"
    assert photo.pixels[0, 0].tolist() == [1, 2, 3, 0]
    assert np.array_equal(photo.pixels[..., :3], pixels)
    assert "alpha channel" in photo.notes[0]


@pytest.mark.parametrize("mode", ["RGB;16", "RGBA;16", "LA;16"])
def test_16_bit_png_is_read_by_others(mode):
    photo = photo_of(mode, icc=SRGB, dpi=(300.0, 300.0))
    data, _ = encode_photo(photo, ".png")
    with Image.open(io.BytesIO(data)) as image:
        assert image.info["icc_profile"] == SRGB
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        assert np.array_equal(np.asarray(image)[..., -1], photo.pixels[..., -1] >> 8)
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    expected = photo.pixels if mode != "LA;16" else photo.pixels[..., [0, 0, 0, 1]]
    assert np.array_equal(found, expected[..., [2, 1, 0, 3][: expected.shape[2]]])


@pytest.mark.parametrize("mode", ["RGB;16", "RGBA;16"])
def test_16_bit_tiff_is_read_by_others(mode):
    photo = photo_of(mode, icc=SRGB)
    data, _ = encode_photo(photo, ".tif")
    assert np.array_equal(tifffile.imread(io.BytesIO(data)), photo.pixels)
    with Image.open(io.BytesIO(data)) as image:
        assert image.info["icc_profile"] == SRGB


def test_depth_that_is_lost_is_said():
    file = io.BytesIO()
    inks = RNG.integers(0, 65536, (20, 30, 4), dtype=np.uint16)
    tifffile.imwrite(file, inks, photometric="separated")
    photo = read_photo(file.getvalue())
    assert np.array_equal(photo.pixels, inks >> 8)
    assert photo.notes == ("its 16-bit inks were read as 8-bit",)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_turned_16_bit_pictures_are_put_upright(kind, orientation):
    pixels = samples("RGB;16")
    if kind == "tiff":
        file = io.BytesIO()
        tifffile.imwrite(file, pixels, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
        data = file.getvalue()
    else:
        data, _ = encode_photo(Photo(pixels=pixels, mode="RGB;16"), ".png")
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = io.BytesIO()
        Image.fromarray(samples("L")).save(file, "PNG", exif=exif)
        other = file.getvalue()
        start = other.index(b"eXIf") - 4
        length = int.from_bytes(other[start : start + 4], "big") + 12
        data = data[:33] + other[start : start + length] + data[33:]
    photo = read_photo(data)
    assert photo.mode == "RGB;16"
    assert photo.orientation == orientation
    assert np.array_equal(photo.rgb8(), decode_rgb(data))


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".jpg", ".webp"])
def test_colour_profile_and_resolution_are_kept(suffix):
    data, notes = encode_photo(photo_of("RGB", icc=SRGB, dpi=(72.0, 72.0)), suffix)
    photo = read_photo(data)
    assert photo.icc == SRGB
    assert not any("profile" in note for note in notes)
    if suffix != ".webp":
        assert photo.dpi == pytest.approx((72, 72), abs=0.1)


def test_a_profile_of_another_colour_space_is_not_carried_over():
    data, notes = encode_photo(photo_of("CMYK", icc=b"a CMYK profile"), ".png")
    assert read_photo(data).icc is None
    assert notes == ("PNG holds no CMYK picture like this one; written as RGB", "its colour profile is lost")


@pytest.mark.parametrize(
    ("mode", "suffix", "written"),
    [
        ("RGBA", ".jpg", "RGB"),
        ("LA", ".webp", "RGBA"),
        ("L", ".webp", "RGB"),
        ("P", ".jpg", "RGB"),
        ("1", ".jpg", "L"),
        ("1", ".gif", "L"),
        ("F", ".png", "I;16"),
        ("RGB;F", ".png", "RGB;16"),
        ("RGBA;F", ".tif", "RGBA;16"),
        ("RGB;16", ".jpg", "RGB"),
        ("LA;16", ".tiff", "RGBA;16"),
        ("CMYK", ".webp", "RGB"),
        ("I;16", ".bmp", "L"),
    ],
)
def test_another_mode_is_said(mode, suffix, written):
    photo = photo_of(mode)
    data, notes = encode_photo(photo, suffix)
    assert any(f"holds no {mode} picture like this one; written as {written}" in note for note in notes)
    again = read_photo(data)
    assert again.mode == written
    if suffix != ".jpg":
        assert np.abs(again.rgb() - photo.rgb()).max() <= 1 / 255


def test_lossy_output_is_said():
    data, notes = encode_photo(photo_of("RGB"), ".jpg")
    assert notes == ("JPEG is lossy: known pixels are not kept exactly; write PNG or TIFF to keep them",)
    assert read_photo(data).format == "JPEG"


def test_what_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(InputError, match="GIF holds no RGB picture; write PNG or TIFF"):
        encode_photo(photo_of("RGB"), ".gif")
    with pytest.raises(InputError, match=r"cannot be written as '.heic'; need .png"):
        encode_photo(photo_of("RGB"), ".heic")
    with pytest.raises(InputError, match="a name without suffix"):
        write_photo(photo_of("RGB"), tmp_path / "out")
    with pytest.raises(InputError, match="No such file or directory"):
        write_photo(photo_of("RGB"), tmp_path / "none" / "out.png")
    with pytest.raises(InputError, match="quality is 0"):
        encode_photo(photo_of("RGB"), ".jpg", quality=0)


def test_files_appear_whole_under_any_name(tmp_path):
    photo = photo_of("RGB")
    for name in ("-rf.png", "new\nline.png", "日本語.png", "x" * 250 + ".png", "UPPER.PNG"):
        write_photo(photo, tmp_path / name)
        assert np.array_equal(read_photo(tmp_path / name).pixels, photo.pixels)
    assert len(list(tmp_path.iterdir())) == 5


def test_animations_say_that_one_frame_was_read():
    frames = [Image.fromarray(samples("RGB")) for _ in range(3)]
    file = io.BytesIO()
    frames[0].save(file, "PNG", save_all=True, append_images=frames[1:])
    photo = read_photo(file.getvalue())
    assert photo.pixels.shape == (20, 30, 3)
    assert photo.notes == ("only the first frame or page was read",)


def test_a_jpeg_cut_and_closed_again_is_refused():
    file = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (200, 200, 3), dtype=np.uint8)).save(file, "JPEG")
    data = file.getvalue()
    with pytest.raises(PictureError, match="truncated: JPEG of 200x200"):
        read_photo(data[: len(data) // 2] + b"\xff\xd9")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "I;16", "RGB;16", "RGBA;16", "F", "RGB;F"])
def test_arrays_become_photos_without_a_change(mode):
    array = samples(mode)
    photo = photo_of_array(array)
    assert photo.mode == mode
    assert np.array_equal(photo.pixels, array)
    assert photo.pixels.dtype == array.dtype


@pytest.mark.parametrize("mode", ["I;16", "RGB;16", "F"])
def test_arrays_in_the_other_order_of_bytes_are_the_same_photo(mode):
    array = samples(mode)
    photo = photo_of_array(array.astype(array.dtype.newbyteorder()))
    assert np.array_equal(photo.rgb(), photo_of_array(array).rgb())
    assert np.array_equal(photo.rgb8(), photo_of_array(array).rgb8())


def test_arrays_with_one_channel_are_gray():
    assert photo_of_array(np.zeros((4, 5, 1), np.uint8)).mode == "L"


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(4, np.uint8), r"shape \(4,\)"),
        (np.zeros((0, 4), np.uint8), r"shape \(0, 4\)"),
        (np.zeros((3, 20, 30), np.uint8), r"shape \(3, 20, 30\).*move the channels last"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"shape \(1, 4, 4, 3\)"),
        (np.zeros((4, 4, 3), np.int64), "dtype int64; need uint8"),
        (np.zeros((4, 4, 3), complex), "dtype complex128"),
        (np.full((4, 4, 3), 200.0), "from 200 to 200; need 0 to 1"),
        (np.full((4, 4, 3), -0.5), "from -0.5 to -0.5"),
        (np.full((4, 4, 3), np.nan), r"48 of 48 samples are NaN or infinite, the first at \(0, 0, 0\)"),
    ],
)
def test_arrays_that_make_no_picture_are_refused(array, message):
    with pytest.raises(InputError, match=message):
        photo_of_array(array)


@pytest.mark.parametrize("mode", ["LAB", "YCbCr"])
def test_colour_spaces_that_become_rgb_say_so_and_lose_a_profile_that_no_longer_fits(mode, tmp_path):
    Image.new(mode, (4, 3)).save(tmp_path / "photo.tif", icc_profile=b"a profile")
    photo = read_photo(tmp_path / "photo.tif")
    assert photo.mode == "RGB"
    assert f"its {mode} samples were converted to RGB" in photo.notes
    assert (photo.icc is None) == (mode == "LAB")
