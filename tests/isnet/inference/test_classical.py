"""Filling without learning: interface, known pixels, degenerate holes."""

import numpy as np
import pytest
import torch

from isnet.errors import InputError
from isnet.inference.classical import CLASSICAL, classical
from isnet.inference.filler import Filler
from isnet.masks import irregular, valid_1HW

ROW, COLUMN = np.mgrid[:40, :56]
SMOOTH = np.stack([4 * ROW + 20, 3 * COLUMN + 30, 2 * (ROW + COLUMN) + 10], axis=2).astype(np.uint8)
HOLE = irregular(40, 56, np.random.default_rng(0), ratio=(0.2, 0.3))


@pytest.mark.parametrize("name", CLASSICAL)
def test_known_pixels_stay_and_the_hole_is_filled_from_them(name):
    damaged = SMOOTH.copy()
    damaged[HOLE] = 255
    fill = classical(name)
    assert isinstance(fill, Filler)
    filled = fill(damaged, HOLE)
    assert filled.dtype == np.uint8
    assert np.array_equal(filled[~HOLE], SMOOTH[~HOLE])
    error = np.abs(filled.astype(int) - SMOOTH)[HOLE].mean()
    assert error < {"mean": 60, "telea": 8, "ns": 8, "biharmonic": 1}[name]
    assert np.array_equal(fill(SMOOTH, HOLE), filled), "what the hole held must not matter"


def test_mean_is_the_mean_of_the_known_pixels():
    filled = classical("mean")(SMOOTH, HOLE)
    assert filled[HOLE][0].tolist() == pytest.approx(SMOOTH[~HOLE].mean(axis=0), abs=0.51)


@pytest.mark.parametrize("name", CLASSICAL)
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (1, 40), (3, 3), (40, 2)])
def test_tiny_pictures_and_full_holes_are_filled(name, shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    fill = classical(name)
    assert (fill(image, np.ones(shape, bool)) == 128).all()
    assert np.array_equal(fill(image, np.zeros(shape, bool)), image)
    if image.size > 3:
        hole = np.zeros(shape, bool)
        hole.flat[0] = True
        assert np.array_equal(fill(image, hole)[~hole], image[~hole])


def test_batches_of_tensors_are_filled_one_by_one():
    truth = torch.from_numpy(SMOOTH).permute(2, 0, 1)[None].float() / 255
    mask = torch.from_numpy(valid_1HW(HOLE))[None]
    predicted = classical("telea").predict_batch(torch.cat([truth, truth.flip(3)]), torch.cat([mask, mask.flip(3)]))
    assert predicted.shape == (2, 3, 40, 56)
    expected = classical("telea")(SMOOTH, HOLE)
    assert np.array_equal((predicted[0] * 255).round().byte().permute(1, 2, 0).numpy(), expected)


def test_mistakes_are_named():
    with pytest.raises(InputError, match="method 'tela' is unknown; need one of mean, telea, ns, biharmonic"):
        classical("tela")
    fill = classical("mean")
    with pytest.raises(InputError, match=r"dtype float64; need uint8 \(H, W, 3\)"):
        fill(SMOOTH / 255, HOLE)
    with pytest.raises(InputError, match=r"hole has shape \(40, 55\)"):
        fill(SMOOTH, HOLE[:, 1:])
    with pytest.raises(InputError, match="dtype uint8, the image"):
        fill(SMOOTH, HOLE.astype(np.uint8))
