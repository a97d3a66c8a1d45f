"""Border of a hole: wider, softer, and never outside the hole."""

import numpy as np
import pytest

from isnet.errors import InputError
from isnet.inference.edges import MAX_BORDER_PX, checked_border, feathered, grown
from isnet.masks import irregular

HOLE = irregular(70, 90, np.random.default_rng(2), ratio=(0.2, 0.3))


@pytest.mark.parametrize("grow_px", [0, 1, 5])
def test_a_grown_hole_has_all_pixels_within_the_distance(grow_px):
    row, column = np.nonzero(HOLE)
    y, x = np.mgrid[:70, :90]
    nearest = np.min([np.hypot(y - r, x - c) for r, c in zip(row, column, strict=True)], axis=0)
    assert np.array_equal(grown(HOLE, grow_px), nearest <= grow_px)


def test_a_hole_that_covers_everything_is_refused_and_an_empty_one_stays_empty():
    with pytest.raises(InputError, match="grown by 200 pixels covers all of the picture of 90x70"):
        grown(HOLE, 200)
    assert not grown(np.zeros((5, 5), bool), 3).any()
    assert grown(np.ones((5, 5), bool), 3).all()


@pytest.mark.parametrize("feather_px", [1, 7, 40, 1000])
@pytest.mark.parametrize("rows", [70, 700])
def test_a_wrong_colour_is_taken_back_at_the_border_alone(feather_px, rows):
    hole = np.zeros((rows, 90), bool)
    hole[10:-10, 20:70] = True
    known = np.full((rows, 90, 3), 0.6, np.float32)
    known[hole] = np.nan
    filled = np.where(hole[..., None], np.float32([0.4] * 3), np.float32(0.6))
    before = filled.copy()
    soft = feathered(filled, known, hole, feather_px)
    assert np.array_equal(filled, before)
    assert np.array_equal(soft[~hole], filled[~hole])
    assert np.allclose(soft[10, 20:70], 0.6, atol=1e-4)
    middle = soft[rows // 2, 20:45, 0]
    assert (np.diff(middle) <= 1e-5).all(), "the correction only falls inwards"
    if feather_px < 24:
        assert np.allclose(middle[feather_px:], 0.4, atol=1e-5)


def test_nothing_changes_without_a_border():
    filled = np.random.default_rng(0).random((70, 90, 3), np.float32)
    for hole, feather_px in ((HOLE, 0), (np.ones_like(HOLE), 9), (np.zeros_like(HOLE), 9)):
        assert np.array_equal(feathered(filled, filled, hole, feather_px), filled)


@pytest.mark.parametrize("value", [-1, MAX_BORDER_PX + 1, 1.5, True, "3", None, float("nan")])
def test_widths_are_checked(value):
    with pytest.raises(InputError, match=r"grow is .*; need a whole number of pixels from 0 to 1024"):
        checked_border("grow", value)
    assert checked_border("grow", np.int64(3)) == 3
