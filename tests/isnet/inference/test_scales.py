"""Scales of a photo and its hole: means of known pixels, and their way back."""

import numpy as np
import pytest

from isnet.inference.scales import continued, depth_of, doubled, halved, scales

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(6, 8), (5, 7), (1, 9), (1, 1)])
def test_halves_are_means_of_known_pixels(shape):
    rgb, hole = RNG.random((*shape, 3), np.float32), RNG.random(shape) < 0.5
    rgb[hole] = np.nan
    half, half_hole = halved(rgb, hole)
    assert half_hole.shape == ((shape[0] + 1) // 2, (shape[1] + 1) // 2)
    for row in range(half_hole.shape[0]):
        for column in range(half_hole.shape[1]):
            block = (slice(2 * row, 2 * row + 2), slice(2 * column, 2 * column + 2))
            known = rgb[block][~hole[block]]
            assert half_hole[row, column] == (len(known) == 0)
            expected = known.mean(axis=0) if len(known) else 0
            assert half[row, column] == pytest.approx(expected, abs=1e-6)
    assert doubled(half, *shape).shape == rgb.shape


def test_scales_end_where_the_hole_is_shallow_or_the_picture_small():
    rgb, hole = np.zeros((400, 300, 3), np.float32), np.zeros((400, 300), bool)
    hole[100:300, 100:200] = True
    pyramid = scales(rgb, hole, reach=4, smallest=16)
    depths = [float(depth_of(level_hole).max()) for _, level_hole in pyramid]
    assert depths[-1] <= 4 < depths[-2]
    everything = scales(rgb, np.ones_like(hole), reach=4, smallest=16)
    assert 16 <= max(everything[-1][1].shape) < 32
    assert len(scales(rgb, np.zeros_like(hole), reach=4, smallest=16)) == 1


def test_known_values_go_on_smoothly_into_the_hole():
    ramp = np.repeat(np.linspace(0, 1, 64, dtype=np.float32)[None, :, None], 3, axis=2).repeat(64, axis=0)
    hole = np.zeros((64, 64), bool)
    hole[20:44, 20:44] = True
    filled = continued(np.where(hole[..., None], np.nan, ramp).astype(np.float32), hole)
    assert np.array_equal(filled[~hole], ramp[~hole])
    assert np.abs(filled - ramp)[hole].max() < 0.12
    assert not continued(ramp, np.ones_like(hole)).any()
