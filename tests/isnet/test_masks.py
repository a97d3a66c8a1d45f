"""Masks drawn at random, hole ratios, and masks read from files and arrays."""

import io
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from isnet.errors import InputError
from isnet.mask_files import MaskRules, mask_from_array, read_mask, read_silhouettes
from isnet.masks import (
    GENERATORS,
    RATIO_BINS,
    bin_range,
    box,
    generator,
    half,
    hole_ratio,
    irregular,
    large_box,
    ratio_bin,
    resized_hole,
    silhouette,
    thick,
    thin,
    valid_1HW,
)

SHARED_MASKS = Path(__file__).parents[2].parent / "shared" / "data" / "masks"
needs_shared_masks = pytest.mark.skipif(not SHARED_MASKS.exists(), reason="published masks are not beside the checkout")


def disc(size=64):
    row, column = np.mgrid[:size, :size]
    return (row - size // 2) ** 2 + (column - size // 2) ** 2 < (size // 4) ** 2


def png(pixels, mode=None):
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("name", GENERATORS)
def test_a_mask_is_a_pure_function_of_its_generator(name):
    draw = generator(name)
    first = [draw(48, 64, np.random.default_rng(3)) for _ in range(2)]
    assert np.array_equal(*first)
    assert first[0].dtype == np.bool_
    rng = np.random.default_rng(4)
    assert len({draw(48, 64, rng).tobytes() for _ in range(8)}) > 2 - (name == "half")
    assert pickle.loads(pickle.dumps(draw)) is draw


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(GENERATORS)), st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**31))
def test_masks_have_the_size_asked_for_and_are_never_empty_or_full(name, height, width, seed):
    if height * width < 2:
        width = 2
    if name == "irregular" and height * width < 10:
        height, width = 5, 5
    hole = GENERATORS[name](height, width, np.random.default_rng(seed))
    assert hole.shape == (height, width)
    assert 0 < np.count_nonzero(hole) < hole.size


@pytest.mark.parametrize("size", [(256, 256), (64, 64), (32, 100), (17, 9), (200, 1)])
@pytest.mark.parametrize("name", RATIO_BINS)
def test_irregular_masks_reach_the_ratio_bin_asked_for(name, size):
    rng = np.random.default_rng(1)
    for _ in range(10):
        assert ratio_bin(hole_ratio(irregular(*size, rng, ratio=bin_range(name)))) == name


def test_irregular_masks_spread_over_the_range():
    rng = np.random.default_rng(0)
    ratios = [hole_ratio(irregular(64, 64, rng, ratio=(0.1, 0.5))) for _ in range(200)]
    assert np.histogram(ratios, bins=[0.1, 0.2, 0.3, 0.4, 0.5])[0].min() > 25


def test_strokes_grow_with_the_picture():
    def mean_ratio(size):
        rng = np.random.default_rng(2)
        return np.mean([hole_ratio(thick(size, size, rng)) for _ in range(60)])

    assert mean_ratio(64) == pytest.approx(mean_ratio(256), rel=0.35)
    assert mean_ratio(512) == pytest.approx(mean_ratio(256), rel=0.35)


def test_lama_masks_stay_below_half_of_the_picture():
    rng = np.random.default_rng(0)
    for name in ("thin", "medium", "thick", "lama"):
        assert max(hole_ratio(generator(name)(96, 96, rng)) for _ in range(60)) <= 0.5


def test_thin_strokes_are_thinner_than_thick_ones():
    def mean_width(draw):
        rng = np.random.default_rng(0)
        holes = [draw(256, 256, rng) for _ in range(20)]
        edges = sum(np.count_nonzero(hole[:, 1:] != hole[:, :-1]) for hole in holes)
        return 2 * sum(np.count_nonzero(hole) for hole in holes) / edges

    assert mean_width(thin) * 3 < mean_width(thick)


def test_box_is_a_rectangle_and_half_is_half():
    rng = np.random.default_rng(0)
    for _ in range(20):
        hole = box(40, 60, rng)
        rows, columns = hole.any(axis=1).sum(), hole.any(axis=0).sum()
        assert hole.sum() == rows * columns
        assert 10 <= rows <= 20
        assert 15 <= columns <= 30
        large = large_box(40, 60, rng)
        rows, columns = large.any(axis=1).sum(), large.any(axis=0).sum()
        assert large.sum() == rows * columns
        assert 15 <= rows <= 20
        assert 22 <= columns <= 30
    halves = {half(8, 8, rng).tobytes() for _ in range(60)}
    assert len(halves) == 4
    assert {hole_ratio(half(8, 6, rng)) for _ in range(20)} == {0.5}


def test_silhouettes_keep_their_outline(tmp_path):
    Image.fromarray(disc().astype(np.uint8) * 255).save(tmp_path / "disc.png")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "nothing.png")
    shapes = read_silhouettes(tmp_path)
    assert len(shapes) == 1
    assert shapes[0].shape == (31, 31)
    rng = np.random.default_rng(0)
    draw = partial(silhouette, shapes=shapes, num=(1, 1), side=(0.3, 0.3))
    largest = max(hole_ratio(draw(128, 128, rng)) for _ in range(30))
    assert largest == pytest.approx(np.pi * 0.15**2, rel=0.1)
    with pytest.raises(InputError, match="no silhouettes"):
        silhouette(9, 9, rng, shapes=())
    (tmp_path / "disc.png").unlink()
    with pytest.raises(InputError, match="no mask with a shape"):
        read_silhouettes(tmp_path)


def test_what_cannot_be_drawn_is_said():
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="1x1 has no mask that is neither empty nor full"):
        box(1, 1, rng)
    with pytest.raises(InputError, match="take a larger picture"):
        irregular(2, 2, rng, ratio=(0.1, 0.2))
    with pytest.raises(InputError, match=r"from 0.5 to 0.1; need 0 <= lower < upper"):
        irregular(9, 9, rng, ratio=(0.5, 0.1))
    with pytest.raises(InputError, match="mask kind 'thicc' is unknown; need one of irregular"):
        generator("thicc")


def test_ratio_bins_have_their_upper_edge():
    assert [ratio_bin(r) for r in (0, 0.05, 0.1, 0.1001, 0.2, 0.3, 0.6, 0.61, 1)] == [
        "0-10", "0-10", "0-10", "10-20", "10-20", "20-30", "50-60", None, None,
    ]  # fmt: skip
    assert [ratio_bin(bin_range(name)[1]) for name in RATIO_BINS] == list(RATIO_BINS)
    with pytest.raises(InputError, match="outside 0 to 1"):
        ratio_bin(14.7)
    with pytest.raises(InputError, match="'10-30' is unknown"):
        bin_range("10-30")


def test_valid_is_one_outside_the_hole():
    valid = valid_1HW(np.array([[True, False]]))
    assert valid.tolist() == [[[0.0, 1.0]]]
    assert valid.dtype == np.float32


@pytest.mark.parametrize("scale", [1, 2, 3, 0.5])
def test_nearest_resize_keeps_the_ratio_of_blocks(scale):
    hole = np.kron(np.array([[1, 0], [0, 0]], bool), np.ones((8, 8), bool)).astype(bool)
    again = resized_hole(hole, int(16 * scale), int(16 * scale))
    assert hole_ratio(again) == 0.25
    assert np.array_equal(again[: len(again) // 2, : len(again) // 2].all(), True)


def test_white_is_hole_unless_told(tmp_path):
    hole = disc()
    path = tmp_path / "mask.png"
    path.write_bytes(png(hole.astype(np.uint8) * 255))
    assert np.array_equal(read_mask(path).hole, hole)
    inverted = png((~hole).astype(np.uint8) * 255)
    mask = read_mask(inverted, rules=MaskRules(hole="black"))
    assert np.array_equal(mask.hole, hole)
    assert mask.notes == ()
    assert "inverted" in read_mask(inverted).notes[0]
    assert np.array_equal(read_mask(inverted).hole, ~hole)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "P", "LA", "RGBA", "I;16"])
def test_every_mode_of_mask_file_reads_alike(mode):
    hole = disc()
    white = hole.astype(np.uint8) * 255
    pixels = white.astype(np.uint16) * 257 if mode == "I;16" else white
    data = png(pixels) if mode == "I;16" else png(pixels, mode)
    assert np.array_equal(read_mask(data).hole, hole)
    assert np.array_equal(read_mask(data, rules=MaskRules(hole="black")).hole, ~hole)


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 20, 150)])
def test_a_hole_painted_in_any_colour_counts(colour):
    hole = disc()
    pixels = hole[..., None] * np.array(colour, np.uint8)
    assert np.array_equal(read_mask(png(pixels)).hole, hole)


@pytest.mark.parametrize("paint", [0, 255])
def test_a_hole_painted_on_transparency_is_read_from_alpha(paint):
    hole = disc()
    pixels = np.full((*hole.shape, 4), paint, np.uint8)
    pixels[..., 3] = hole * 255
    mask = read_mask(png(pixels))
    assert np.array_equal(mask.hole, hole)
    assert "alpha" in mask.notes[0]


def test_transparent_pixels_of_a_coloured_mask_are_kept():
    hole = disc()
    pixels = np.full((*hole.shape, 4), 255, np.uint8)
    pixels[~hole] = (255, 255, 255, 0)
    pixels[0, 0] = (0, 0, 0, 255)
    assert np.array_equal(read_mask(png(pixels)).hole, hole)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_mask_of_zeros_and_ones_is_understood_and_said(dtype):
    hole = disc()
    mask = read_mask(png(hole.astype(dtype)))
    assert np.array_equal(mask.hole, hole)
    assert "only the values 0 and 1" in mask.notes[0]


def test_soft_edges_are_cut_in_the_middle():
    row, column = np.mgrid[:100, :100]
    distance = np.hypot(row - 49.5, column - 49.5)
    soft = np.clip((30 - distance) / 6 + 0.5, 0, 1)
    mask = read_mask(png((soft * 255).astype(np.uint8)))
    assert mask.ratio == pytest.approx(np.pi * 30**2 / 100**2, rel=0.01)
    assert mask.notes == ()


def test_odd_masks_are_named():
    def notes(pixels, **rules):
        return " ".join(read_mask(png(pixels), rules=MaskRules(**rules)).notes)

    assert notes(np.zeros((8, 8), np.uint8)) == "mask has no hole"
    assert "everything is hole" in notes(np.full((8, 8), 255, np.uint8))
    assert "largest value is 100, below the threshold 128" in notes(disc().astype(np.uint8) * 100)
    assert notes(disc().astype(np.uint8) * 100, threshold=50) == ""
    gray = np.random.default_rng(0).integers(0, 255, (32, 32), dtype=np.uint8)
    assert "neither dark nor light" in notes(gray)


def test_a_resized_mask_says_so_and_measures_again():
    mask = read_mask(png(disc(64).astype(np.uint8) * 255), size=(30, 100))
    assert mask.hole.shape == (30, 100)
    assert mask.ratio == hole_ratio(mask.hole)
    assert mask.notes == ("mask resized from 64x64 to 100x30",)
    assert read_mask(png(disc(64).astype(np.uint8) * 255), size=(64, 64)).notes == ()


def test_a_turned_mask_file_is_put_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    pixels = np.zeros((8, 16), np.uint8)
    pixels[0] = 255
    Image.fromarray(pixels).save(file, "PNG", exif=exif)
    hole = read_mask(file.getvalue()).hole
    assert hole.shape == (16, 8)
    assert hole[:, -1].all()
    assert not hole[:, :-1].any()


@pytest.mark.parametrize(
    "array",
    [
        disc(),
        disc()[..., None],
        disc().astype(np.uint8),
        disc().astype(np.uint8) * 255,
        disc().astype(np.int64),
        disc().astype(np.float32),
        disc().astype(np.float64),
        disc().astype(np.uint16) * 65535,
        (disc().astype(np.uint16) * 65280).astype(">u2"),
        disc().astype(">f4"),
        np.stack([disc()] * 3, axis=2).astype(np.uint8) * 255,
        np.stack([np.zeros_like(disc())] * 3 + [disc()], axis=2).astype(np.uint8) * 255,
    ],
)
def test_arrays_of_every_sensible_kind_read_alike(array):
    assert np.array_equal(mask_from_array(array).hole, disc())


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(5), r"shape \(5,\)"),
        (np.zeros((0, 4), np.uint8), r"shape \(0, 4\)"),
        (np.zeros((4, 4, 9), np.uint8), r"shape \(4, 4, 9\)"),
        (np.full((4, 4), 300), "int64 values from 300 to 300"),
        (np.full((4, 4), -1), "from -1 to -1"),
        (np.full((4, 4), 2.5), "from 2.5 to 2.5; need 0 to 1"),
        (np.full((4, 4), np.nan), "16 of 16 samples are NaN"),
        (np.zeros((4, 4), complex), "dtype complex128"),
        (np.array([["a"]]), "dtype <U1"),
    ],
)
def test_arrays_that_make_no_mask_are_refused(array, message):
    with pytest.raises(InputError, match=message):
        mask_from_array(array)


def test_rules_are_checked():
    with pytest.raises(InputError, match="hole='grey'; need 'white' or 'black'"):
        MaskRules(hole="grey")
    with pytest.raises(InputError, match="threshold=0; need 1 to 255"):
        MaskRules(threshold=0)


@needs_shared_masks
@pytest.mark.parametrize("name", RATIO_BINS)
def test_published_masks_fall_into_the_bin_of_their_folder(name):
    paths = sorted((SHARED_MASKS / "nvidia_test" / ("00-10" if name == "0-10" else name)).iterdir())[:20]
    assert len(paths) == 20
    for path in paths:
        mask = read_mask(path)
        assert ratio_bin(mask.ratio) == name
        assert mask.notes == ()
        assert mask.resized(256, 256).ratio == pytest.approx(mask.ratio, abs=0.01)


@needs_shared_masks
def test_published_masks_of_the_other_polarity_need_the_setting():
    paths = [SHARED_MASKS / "mat" / f"places_mask{number}.png" for number in (1, 2)]
    for path in paths:
        straight, inverted = read_mask(path), read_mask(path, rules=MaskRules(hole="black"))
        assert 0 < straight.ratio < 1
        assert straight.ratio == pytest.approx(1 - inverted.ratio)
