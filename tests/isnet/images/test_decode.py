"""Decoding for training, crops, reading files and folders."""

import io
import os
import pickle
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from isnet.errors import InputError
from isnet.images.crops import center_square, enlarge_to, flip, random_crop
from isnet.images.decode import decode_rgb, reduction
from isnet.images.files import PictureError, display_name, read_bytes
from isnet.images.folders import find_pictures, hidden_part, walk_pictures, with_advice
from isnet.images.open_image import MAX_PIXELS


def photo(height=60, width=80, seed=0):
    """A smooth colour picture, uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_header(width, height, depth=8, colour=2):
    """A PNG that promises a size and holds next to nothing."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")


HOLDS = {
    "PNG": ["RGB", "L", "P", "1", "RGBA", "LA"],
    "BMP": ["RGB", "L", "P", "1", "RGBA"],
    "TIFF": ["RGB", "L", "P", "1", "RGBA", "LA", "CMYK"],
    "PPM": ["RGB", "L", "1"],
    "JPEG": ["RGB", "L", "CMYK"],
    "WEBP": ["RGB", "L", "P", "RGBA", "LA"],
    "GIF": ["RGB", "L", "P", "1", "RGBA"],
    "JPEG2000": ["RGB", "L", "RGBA", "LA"],
    "AVIF": ["RGB", "L", "RGBA"],
}


@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind, modes in HOLDS.items() for mode in modes])
def test_every_mode_of_every_format_becomes_rgb_as_pillow_makes_it(kind, mode):
    data = encoded(photo().convert(mode), kind)
    rgb = decode_rgb(data)
    with Image.open(io.BytesIO(data)) as image:
        expected = image.convert("RGBA").convert("RGB") if image.mode in ("LA", "RGBA") else image.convert("RGB")
        assert np.array_equal(rgb, np.asarray(expected))
    assert rgb.dtype == np.uint8
    assert rgb.flags.writeable


def test_alpha_is_dropped_and_the_colours_below_it_are_kept():
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[..., 0] = 200
    assert np.array_equal(decode_rgb(encoded(Image.fromarray(pixels))), pixels[..., :3])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo(), kind, exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert np.array_equal(decode_rgb(data), expected)


def test_orientation_that_makes_no_sense_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 77
    assert decode_rgb(encoded(photo(), "JPEG", exif=exif)).shape == (60, 80, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_large_pictures_are_reduced_by_the_same_factor_in_every_format(kind):
    data = encoded(photo(600, 900), kind)
    assert decode_rgb(data, shortest=256).shape == (300, 450, 3)
    assert decode_rgb(data, shortest=64).shape == (75, 113, 3)
    assert decode_rgb(data, shortest=301).shape == (600, 900, 3)


def test_reduced_pictures_look_like_the_full_one_shrunk():
    full = photo(512, 512)
    small = np.asarray(full.reduce(4)).astype(int)
    assert np.abs(decode_rgb(encoded(full, "JPEG", quality=98), shortest=128) - small).mean() < 2


def test_reduction_keeps_the_shorter_side():
    assert [reduction((900, size), 100) for size in (99, 100, 199, 200, 400, 799, 800, 900)] == [1, 1, 1, 2, 4, 4, 8, 8]
    assert reduction((10, 10), None) == 1


def test_16_bit_samples_keep_their_high_byte():
    values = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    gray = decode_rgb(encoded(Image.fromarray(values)))
    assert np.array_equal(gray[..., 0], values >> 8)


def test_float_pictures_within_0_and_1_are_scaled_and_others_refused():
    values = np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8)
    assert np.array_equal(decode_rgb(encoded(Image.fromarray(values), "TIFF"))[..., 1], np.rint(values * 255))
    with pytest.raises(PictureError, match="from 0 to 255; need 0 to 1"):
        decode_rgb(encoded(Image.fromarray(values * 255), "TIFF"))
    values[2, 3] = np.nan
    with pytest.raises(PictureError, match=r"1 of 48 samples are NaN or infinite, the first at \(2, 3\)"):
        decode_rgb(encoded(Image.fromarray(values), "TIFF"))


@pytest.mark.parametrize(("kind", "mode"), [("GIF", "P"), ("PNG", "RGB"), ("WEBP", "RGB"), ("TIFF", "RGB")])
def test_animations_and_pages_give_their_first_frame(kind, mode):
    frames = [photo(seed=seed).convert(mode) for seed in range(3)]
    lossless = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **lossless)
    assert np.array_equal(decode_rgb(data), np.asarray(frames[0].convert("RGB")))


def test_two_picture_jpegs_give_the_first():
    data = encoded(photo(), "MPO", save_all=True, append_images=[photo(seed=1)])
    assert np.array_equal(decode_rgb(data), decode_rgb(encoded(photo(), "JPEG")))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.6, 0.97])
def test_cut_files_are_refused(kind, kept):
    data = encoded(photo(), kind)
    with pytest.raises(PictureError) as caught:
        decode_rgb(data[: int(len(data) * kept)])
    assert caught.value.kind in ("truncated", "damaged", "not a picture")


def test_jpeg_cut_and_closed_again_is_refused():
    data = encoded(photo(300, 300), "JPEG")
    with pytest.raises(PictureError, match="premature end"):
        decode_rgb(data[: len(data) // 2] + b"\xff\xd9")


def test_flipped_bytes_of_a_png_are_refused():
    data = bytearray(encoded(photo()))
    data[len(data) // 2] ^= 0x10
    with pytest.raises(PictureError, match="damaged: PNG of 80x60"):
        decode_rgb(bytes(data))


def test_padding_inside_and_junk_behind_a_jpeg_do_no_harm():
    data = encoded(photo(), "JPEG")
    whole = decode_rgb(data)
    assert np.array_equal(decode_rgb(data + os.urandom(5000)), whole)
    assert np.array_equal(decode_rgb(data[:-2] + b"\0" * 64 + data[-2:]), whole)


def test_content_decides_not_the_name_and_other_content_is_named():
    with pytest.raises(PictureError, match="empty"):
        decode_rgb(b"")
    with pytest.raises(PictureError, match="looks like a web page"):
        decode_rgb(b"<!doctype html><title>404</title>")
    with pytest.raises(PictureError, match="HEIC"):
        decode_rgb(b"\0\0\0\x18ftypheic" + b"\0" * 40)
    with pytest.raises(PictureError, match="not a picture: 4 bytes starting b'abcd'"):
        decode_rgb(b"abcd")
    with pytest.raises(PictureError, match="PostScript"):
        decode_rgb(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")


@pytest.mark.parametrize("size", [(10_000, 10_000), (15_000, 10_000), (60_000, 60_000), (2**31 - 1, 1)])
def test_bombs_are_refused_from_the_header(size):
    with pytest.raises(PictureError, match=f"too large: its header says .* pixels; need at most {MAX_PIXELS}"):
        decode_rgb(png_header(*size))


def test_jpeg_bombs_are_refused_from_the_header():
    data = bytearray(encoded(photo(), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 65500, 65500)
    with pytest.raises(PictureError, match="65500x65500 = 4290250000 pixels"):
        decode_rgb(bytes(data))


def test_the_pixel_limit_is_a_setting():
    data = encoded(photo())
    assert decode_rgb(data, max_pixels=4800).shape == (60, 80, 3)
    with pytest.raises(PictureError, match="80x60 = 4800 pixels; need at most 4799"):
        decode_rgb(data, max_pixels=4799)
    with pytest.raises(InputError, match="max_pixels is 0"):
        decode_rgb(data, max_pixels=0)


def test_errors_survive_a_process_boundary():
    error = PictureError("truncated", "ends too early")
    again = pickle.loads(pickle.dumps(error))
    assert (again.kind, str(again)) == ("truncated", "truncated: ends too early")


def test_random_crops_depend_on_the_generator_alone_and_reach_every_corner():
    rgb = np.asarray(photo(20, 30))
    assert np.array_equal(
        random_crop(rgb, 16, np.random.default_rng(5)), random_crop(rgb, 16, np.random.default_rng(5))
    )
    rng = np.random.default_rng(0)
    marked = np.arange(20 * 30, dtype=np.int64).reshape(20, 30)
    starts = {int(random_crop(marked, 19, rng)[0, 0]) for _ in range(400)}
    assert starts == {row * 30 + column for row in range(2) for column in range(12)}


@pytest.mark.parametrize("shape", [(1, 1), (3, 2000), (100, 130), (128, 128), (127, 300), (640, 129)])
def test_crops_have_their_size_whatever_the_picture(shape):
    rgb = np.full((*shape, 3), 77, np.uint8)
    for crop in (random_crop(rgb, 128, np.random.default_rng(0)), center_square(rgb, 128)):
        assert crop.shape == (128, 128, 3)
        assert (crop == 77).all()
        assert crop.flags.writeable


def test_enlarging_keeps_the_aspect():
    assert enlarge_to(np.zeros((50, 100, 3), np.uint8), 64).shape == (64, 128, 3)


def test_center_square_takes_the_middle():
    rgb = np.zeros((8, 20, 3), np.uint8)
    rgb[:, 6:14] = 255
    assert (center_square(rgb, 4) == 255).all()


def test_flip_twice_is_nothing():
    rgb = np.asarray(photo())
    assert np.array_equal(flip(flip(rgb)), rgb)
    assert np.array_equal(flip(rgb)[:, 0], rgb[:, -1])


AWKWARD = ["-rf.jpg", "a b & $HOME ;.jpg", "new\nline.jpg", "日本語_🙂.jpg", 'comma,"quote.jpg', "UPPER.JPG", "x" * 240]


def test_a_folder_gives_its_pictures_in_a_fixed_order_and_says_what_it_left_out(tmp_path):
    root = tmp_path / "photos"
    (root / "deep").mkdir(parents=True)
    data = encoded(photo(), "JPEG")
    names = [*AWKWARD[:-1], AWKWARD[-1] + ".jpg", "deep/b.webp", "deep/a.png"]
    for name in names:
        (root / name).write_bytes(data)
    Path(os.fsdecode(os.fsencode(root) + b"/latin\xe9.jpg")).write_bytes(data)
    (root / "notes.txt").write_text("not a picture")
    (root / "empty.png").touch()
    (root / "raw.CR2").write_bytes(b"x")
    (root / "folder.jpg").mkdir()
    (root / "dangling.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "outside.jpg").write_bytes(data)
    (root / "out.jpg").symlink_to("../outside.jpg")
    (root / "in.jpg").symlink_to("UPPER.JPG")
    (root / "loop").symlink_to(".")
    os.mkfifo(root / "pipe.jpg")

    found, skipped = find_pictures(root)
    relative = [os.fsencode(path.relative_to(root)) for path in found]
    assert relative == sorted([*(os.fsencode(name) for name in names), b"latin\xe9.jpg", b"in.jpg"])
    assert {str(entry.path): entry.reason.split(";")[0].split(":")[0] for entry in skipped} == {
        "dangling.jpg": "link to nothing",
        "empty.png": "empty file",
        "folder.jpg": "a folder with a picture's name",
        "loop": "link to a folder",
        "out.jpg": "link that leaves the folder",
        "raw.CR2": ".cr2 pictures cannot be read here",
        "pipe.jpg": "pipe, socket or device, not a file",
    }
    # People also get what to do about it.
    for reason in ("link that leaves the folder", "link to a folder: not followed", "link to nothing", "empty file"):
        assert with_advice(reason).startswith(f"{reason} (")
    assert "give a .txt list of paths" in with_advice("link that leaves the folder")
    assert with_advice("damaged: cut off") == "damaged: cut off"
    assert root / "out.jpg" in find_pictures(root, links_out=True)[0]
    assert find_pictures(root) == (found, skipped)
    for path in found:
        assert decode_rgb(read_bytes(path)).shape == (60, 80, 3)
        assert display_name(path).isprintable()


def test_folders_come_in_the_order_of_whole_paths_however_deep(tmp_path):
    names = ("a/b.jpg", "a-b.jpg", "a.jpg", "a/b/c.jpg", "a/b-c.jpg", "ab.jpg", "a b/c.jpg", "Z/é.jpg", "a/b0/c.jpg")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    walked = [os.fsencode(path.relative_to(tmp_path)) for path in walk_pictures(tmp_path)]
    assert walked == sorted(os.fsencode(name) for name in names)
    # Deeper than Python's calls, and than a path that the system takes at once.
    deepest, levels = os.open(tmp_path, os.O_RDONLY), 1200
    for _ in range(levels):
        os.mkdir("d", dir_fd=deepest)
        deepest, parent = os.open("d", os.O_RDONLY, dir_fd=deepest), deepest
        os.close(parent)
    os.close(os.open("deep.jpg", os.O_CREAT | os.O_WRONLY, dir_fd=deepest))
    os.close(deepest)
    _, skipped = find_pictures(tmp_path)
    # pytest could not remove it.
    subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)
    assert [entry.reason for entry in skipped] == ["empty file"]
    assert len(skipped[0].path.parts) == levels + 1


HIDDEN = (
    *(".thumbnails", ".Trash-1000/files", ".ipynb_checkpoints", "@eaDir/a.jpg", "#recycle", "$RECYCLE.BIN/S-1-5"),
    *("System Volume Information", "__MACOSX", "lost+found", "@Recycle", "deep/below/.cache"),
)  # fmt: skip


def test_hidden_files_and_folders_of_systems_are_passed_over_and_named(tmp_path):
    data = encoded(photo())
    for folder in (*HIDDEN, "album.jpg", "deep"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "copy.jpg").write_bytes(data)
    for name in ("a.jpg", ".trashed-1-a.jpg", "._a.jpg", ".DS_Store", "Thumbs.db"):
        (tmp_path / name).write_bytes(data)
    found, skipped = find_pictures(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in found] == ["a.jpg", "album.jpg/copy.jpg", "deep/copy.jpg"]
    assert {str(entry.path) for entry in skipped} == {
        *(folder.split("/")[0] for folder in HIDDEN if not folder.startswith("deep")),
        *("deep/below/.cache", ".trashed-1-a.jpg", "album.jpg"),
    }
    # None of them is a picture that somebody misses.
    assert all(entry.is_harmless for entry in skipped)


def test_a_hidden_folder_that_was_named_is_looked_into(tmp_path):
    (tmp_path / ".photos").mkdir()
    (tmp_path / ".photos" / "a.jpg").write_bytes(encoded(photo()))
    assert len(find_pictures(tmp_path / ".photos")[0]) == 1


def test_folders_of_results_and_masks_can_be_left_out(tmp_path):
    for name in ("a.jpg", "out/a.jpg", "deep/masks/a.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encoded(photo()))
    (tmp_path / "elsewhere").symlink_to("out")
    found, _ = find_pictures(tmp_path, without=(tmp_path / "elsewhere", tmp_path / "deep/masks", tmp_path / "none"))
    assert found == [tmp_path / "a.jpg"]


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("./a/b.jpg", ""),
        ("../a/b.jpg", ""),
        ("a//b.jpg", ""),
        ("x/.thumbnails/deep/b.jpg", "x/.thumbnails"),
        ("x/@eaDir/b.jpg", "x/@eaDir"),
        ("x/.b.jpg", "x/.b.jpg"),
        ("x/@eaDir", ""),
    ],
)
def test_the_hidden_part_of_a_path_in_an_archive(path, part):
    assert hidden_part(path)[0] == part


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_without_permission_are_left_out(tmp_path):
    (tmp_path / "locked.jpg").write_bytes(b"x")
    (tmp_path / "locked.jpg").chmod(0)
    assert find_pictures(tmp_path)[1][0].reason == "no permission to read it"


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(InputError, match="is no folder"):
        find_pictures(tmp_path / "none")


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "dangling.jpg").symlink_to("nowhere")
    (tmp_path / "large.jpg").write_bytes(b"123456")
    for path, message in [
        ("/dev/zero", "not a file: /dev/zero is a pipe, socket or device"),
        (tmp_path / "pipe.jpg", "not a file"),
        (tmp_path, "is a folder"),
        (tmp_path / "dangling.jpg", "is a link to nothing"),
        (tmp_path / "none.jpg", "does not exist"),
        (tmp_path / ("x" * 300), "File name too long"),
        ("nul\0byte.jpg", "is no file name"),
    ]:
        with pytest.raises(PictureError, match=message):
            read_bytes(path)
    with pytest.raises(PictureError, match="has 6 bytes; need at most 5"):
        read_bytes(tmp_path / "large.jpg", max_bytes=5)
