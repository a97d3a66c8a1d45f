"""Coarse to fine: what a network trained on small squares makes of a large picture."""

import numpy as np
import pytest
import torch
from torch import nn

from isnet.errors import InputError
from isnet.inference import predictor as module
from isnet.inference.classical import classical
from isnet.inference.predictor import Predictor
from isnet.inference.tiles import tiles
from isnet.masks import irregular

ROW, COLUMN = np.mgrid[:200, :280].astype(np.float32)
RAMPS = np.stack([ROW / 200, COLUMN / 280, (ROW + COLUMN) / 480], axis=2)


class Near(nn.Module):
    """Answers with the mean of the known pixels within 4, gray where there are none, and always 0.1 too dark."""

    size_multiple = 8

    def forward(self, image_B3HW, mask_B1HW):
        known = nn.functional.avg_pool2d(mask_B1HW, 9, 1, 4)
        mean = nn.functional.avg_pool2d(image_B3HW, 9, 1, 4) / known.clamp_min(1e-6)
        return torch.where(known > 1e-6, mean, torch.full_like(mean, 0.5)) - 0.1


def hole_of(ratio=(0.3, 0.4), shape=(200, 280)):
    return irregular(*shape, np.random.default_rng(3), ratio=ratio)


def error(predicted, hole, truth=RAMPS):
    return float(np.abs(predicted - truth)[hole].mean())


def test_a_near_sighted_network_fills_wide_holes_coarse_to_fine():
    hole = np.zeros((200, 280), bool)
    hole[40:160, 60:220] = True
    off = Predictor(Near(), trained_size=32)
    auto = off.with_refine("auto")
    assert error(auto.predict(RAMPS, hole), hole) < error(off.predict(RAMPS, hole), hole) / 4
    # Colours go on across the border: the fill beside it is as near to its neighbour as the truth is.
    filled = auto.predict(RAMPS, hole)
    jumps = np.abs(filled[40, 60:220] - RAMPS[39, 60:220])
    assert jumps.max() < 0.05 < np.abs(off.predict(RAMPS, hole)[40, 60:220] - RAMPS[39, 60:220]).mean()


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (37, 3), (200, 280), (131, 67)])
def test_known_pixels_and_what_the_hole_held_do_not_matter(shape):
    rng = np.random.default_rng(1)
    rgb = rng.random((*shape, 3), np.float32)
    auto = Predictor(Near(), trained_size=64, refine="auto")
    for hole in (rng.random(shape) < 0.5, np.ones(shape, bool), np.zeros(shape, bool)):
        before = rgb.copy()
        filled = auto.predict(rgb, hole)
        assert filled.dtype == np.float32
        assert np.isfinite(filled).all()
        assert np.array_equal(filled[~hole], rgb[~hole])
        assert np.array_equal(rgb, before), "the caller's picture is not written on"
        hidden = np.where(hole[..., None], np.float32(np.nan), rgb)
        assert np.array_equal(auto.predict(hidden, hole), filled)


def test_the_raw_prediction_covers_known_pixels_too():
    hole = hole_of()
    auto = Predictor(Near(), trained_size=64, refine="auto")
    raw = auto.predict(RAMPS, hole, everywhere=True)
    assert np.array_equal(raw[hole], auto.predict(RAMPS, hole)[hole])
    assert np.abs(RAMPS - raw)[~hole].mean() > 0.05, "the network's own answer, which is too dark"


def test_neither_the_batch_nor_the_order_of_tiles_decides_anything(monkeypatch):
    hole = hole_of()
    auto = Predictor(Near(), trained_size=64, refine="auto", max_pixels=64 * 64)
    alone = auto.predict(RAMPS, hole)
    assert np.array_equal(auto.predict(RAMPS, hole), alone)
    image = torch.from_numpy(np.stack([RAMPS, RAMPS[::-1].copy()])).permute(0, 3, 1, 2)
    mask = torch.from_numpy(np.stack([~hole, hole_of((0.1, 0.2))[::-1]]))[:, None].float()
    both = auto.predict_batch(image, mask)
    assert np.array_equal(both[0].permute(1, 2, 0).numpy(), alone)
    monkeypatch.setattr(module, "tiles", lambda *sides, **limits: tiles(*sides, **limits)[::-1])
    assert np.array_equal(auto.predict(RAMPS, hole), alone)


def test_a_small_hole_in_a_large_picture_costs_little():
    pixels = []

    class Counting(Near):
        def forward(self, image_B3HW, mask_B1HW):
            pixels.append(image_B3HW.shape[2] * image_B3HW.shape[3])
            return super().forward(image_B3HW, mask_B1HW)

    large = np.tile(RAMPS, (8, 8, 1))
    hole = np.zeros(large.shape[:2], bool)
    hole[700:740, 900:940] = True
    filled = Predictor(Counting(), trained_size=64, refine="auto").predict(large, hole)
    assert np.array_equal(filled[~hole], large[~hole])
    assert sum(pixels) < large.shape[0] * large.shape[1] / 8
    pixels.clear()
    hole[100:1500, 100:2100] = True
    Predictor(Counting(), trained_size=64, refine="auto").predict(large, hole)
    assert max(pixels) <= 2**18, "memory stays bounded"


def test_it_is_better_than_fast_marching_with_a_network_that_knows_nothing_of_edges():
    hole = hole_of()
    auto = Predictor(Near(), trained_size=64, refine="auto")
    assert error(auto.predict(RAMPS, hole), hole) < error(classical("telea").predict(RAMPS, hole), hole)


def test_without_a_known_size_nothing_is_refined():
    hole = hole_of()
    expected = Predictor(Near()).predict(RAMPS, hole)
    assert np.array_equal(Predictor(Near(), refine="auto").predict(RAMPS, hole), expected)
    assert np.array_equal(Predictor(Near(), trained_size=64).predict(RAMPS, hole), expected)


def test_large_pictures_at_one_scale_are_a_remark():
    off = Predictor(Near(), trained_size=64)
    assert off.notes(128, 100) == []
    (note,) = off.notes(129, 100)
    assert "trained on squares of 64 pixels and fills 100x129" in note
    assert off.with_refine("auto").notes(3000, 4000) == []


def test_settings_are_checked():
    with pytest.raises(InputError, match="refine is 'best'; need one of auto, off"):
        Predictor(Near(), refine="best")
    with pytest.raises(InputError, match="refine is 'best'"):
        Predictor(Near()).with_refine("best")
    with pytest.raises(InputError, match="trained_size is 0"):
        Predictor(Near(), trained_size=0)
