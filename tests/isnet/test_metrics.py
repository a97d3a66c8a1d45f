"""Metrics against scikit-image and plain loops, finite everywhere, and sums by bin."""

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve
from skimage.color import rgb2gray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from isnet.errors import InputError
from isnet.masks import irregular, valid_1HW
from isnet.metrics import MAX_PSNR_DB, METRICS, MetricSums, composite, measure

DEFINITIONS = ["isnet", "edge_connect", "skimage"]


def batch(count=3, size=64, seed=0, noise=0.1):
    """Truth, prediction and mask: (B, 3, H, W) twice and (B, 1, H, W), as multiples of 1/255."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.random((count, 3, 5, 5)))
    truth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1)
    pred = (truth + noise * torch.from_numpy(rng.standard_normal(truth.shape))).clamp(0, 1)
    mask = torch.from_numpy(np.stack([valid_1HW(irregular(size, size, rng)) for _ in range(count)]))
    return (pred * 255).round() / 255, (truth * 255).round() / 255, mask


def as_numpy(tensor):
    """(B, 3, H, W) to (B, H, W, 3), at least one picture."""
    assert len(tensor) > 0
    return tensor.permute(0, 2, 3, 1).numpy()


def test_composite_is_the_truth_outside_the_hole():
    pred, truth, mask = batch()
    filled = composite(pred, truth, mask)
    valid = mask.expand_as(truth) > 0
    assert torch.equal(filled[valid], truth[valid])
    assert torch.equal(filled[~valid], pred[~valid])


def test_skimage_definition_is_scikit_image():
    pred, truth, mask = batch()
    found = measure(pred, truth, mask, definition="skimage")
    filled = as_numpy(composite(pred, truth, mask))
    for i, expected in enumerate(as_numpy(truth)):
        assert found["psnr"][i].item() == pytest.approx(
            peak_signal_noise_ratio(expected, filled[i], data_range=1), abs=1e-5
        )
        ssim = structural_similarity(expected, filled[i], data_range=1, channel_axis=2)
        assert found["ssim"][i].item() == pytest.approx(ssim, abs=1e-5)
        assert found["l1_percent"][i].item() == pytest.approx(100 * np.abs(expected - filled[i]).mean(), abs=1e-5)


def test_edge_connect_definition_is_gray_with_a_window_of_51():
    pred, truth, mask = batch()
    found = measure(pred, truth, mask, definition="edge_connect")
    filled = as_numpy(composite(pred, truth, mask))
    for i, expected in enumerate(as_numpy(truth)):
        a, b = rgb2gray(expected), rgb2gray(filled[i])
        assert found["psnr"][i].item() == pytest.approx(peak_signal_noise_ratio(a, b, data_range=1), abs=1e-5)
        ssim = structural_similarity(a, b, data_range=1, win_size=51)
        assert found["ssim"][i].item() == pytest.approx(ssim, abs=1e-5)
        assert found["l1_percent"][i].item() == pytest.approx(100 * np.abs(a - b).sum() / (a + b).sum(), abs=1e-5)


def test_isnet_definition_is_the_one_of_the_release():
    pred, truth, mask = batch()
    found = measure(pred, truth, mask, definition="isnet")
    filled = as_numpy(composite(pred, truth, mask))
    place = np.arange(11) - 5
    line = np.exp(-(place**2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2

    def blur(plane):
        return convolve(plane, window, mode="constant")

    for i, expected in enumerate(as_numpy(truth)):
        a, b = (np.floor(picture * 255 + 1e-4) for picture in (expected, filled[i]))
        assert found["psnr"][i].item() == pytest.approx(10 * np.log10(255**2 / np.mean((a - b) ** 2)), abs=1e-5)
        maps = []
        for x, y in zip(np.moveaxis(expected, 2, 0), np.moveaxis(filled[i], 2, 0), strict=True):
            mx, my = blur(x), blur(y)
            vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
            maps.append((2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)))
        assert found["ssim"][i].item() == pytest.approx(np.mean(maps), abs=1e-5)
        assert found["l1_percent"][i].item() == pytest.approx(100 * np.abs(expected - filled[i]).mean(), abs=1e-5)


def test_isnet_psnr_truncates():
    truth = torch.full((1, 3, 16, 16), 100.9 / 255)
    pred = torch.full((1, 3, 16, 16), 101.1 / 255)
    psnr = measure(pred, truth, torch.zeros(1, 1, 16, 16), definition="isnet")["psnr"]
    assert psnr.item() == pytest.approx(20 * np.log10(255))


def test_truncation_keeps_every_8_bit_level():
    levels = torch.arange(256, dtype=torch.float32) / 255
    truth = levels.repeat(3, 16, 1)[None]
    for picture in (truth, truth.double()):
        later = (picture * 1.0).clone()
        later[..., 5] += 1 / 255
        found = measure(later, picture, torch.zeros(1, 1, 16, 256), definition="isnet")["psnr"].item()
        assert found == pytest.approx(10 * np.log10(255**2 * 256))


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_l1_in_the_hole_does_not_depend_on_its_area(definition):
    truth = torch.zeros(2, 3, 64, 64)
    mask = torch.ones(2, 1, 64, 64)
    mask[0, :, :4] = 0
    mask[1, :, :40] = 0
    found = measure(truth + 0.25, truth, mask, definition=definition)
    assert found["l1_hole"].tolist() == [0.25, 0.25]


@pytest.mark.parametrize("definition", DEFINITIONS)
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("hole", [False, True])
def test_constant_and_identical_pictures_have_finite_metrics(definition, value, hole):
    picture = torch.full((2, 3, 60, 60), value)
    mask = torch.full((2, 1, 60, 60), 0.0 if hole else 1.0)
    found = measure(picture, picture, mask, definition=definition)
    assert found["psnr"].tolist() == [MAX_PSNR_DB] * 2
    assert found["ssim"].tolist() == pytest.approx([1.0] * 2)
    assert found["l1_percent"].tolist() == [0.0] * 2
    assert found["l1_hole"].tolist() == [0.0] * 2


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_black_against_white_is_finite(definition):
    found = measure(
        torch.ones(1, 3, 60, 60), torch.zeros(1, 3, 60, 60), torch.zeros(1, 1, 60, 60), definition=definition
    )
    assert all(torch.isfinite(value).all() for value in found.values())
    assert found["psnr"].item() == pytest.approx(0, abs=1e-6)
    assert found["l1_percent"].item() == pytest.approx(100)


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_a_batch_is_its_pictures_one_by_one(definition):
    pred, truth, mask = batch(4)
    whole = measure(pred, truth, mask, definition=definition)
    for i in range(4):
        alone = measure(pred[i : i + 1], truth[i : i + 1], mask[i : i + 1], definition=definition)
        for name in METRICS:
            assert whole[name][i].item() == pytest.approx(alone[name].item(), rel=1e-6)


def test_float32_pictures_give_the_same_figures():
    pred, truth, mask = batch()
    narrow, wide = measure(pred.float(), truth.float(), mask), measure(pred, truth, mask)
    for name in METRICS:
        assert narrow[name].tolist() == pytest.approx(wide[name].tolist(), rel=1e-6)


def test_mistakes_are_named():
    pred, truth, mask = batch(1, 48)
    with pytest.raises(InputError, match="'lpips' is unknown; need one of isnet, edge_connect, skimage"):
        measure(pred, truth, mask, definition="lpips")
    with pytest.raises(InputError, match=r"mask \(1, 3, 48, 48\)"):
        measure(pred, truth, truth)
    with pytest.raises(InputError, match="48x48 are smaller than this SSIM's window of 51"):
        measure(pred, truth, mask, definition="edge_connect")


def test_sums_of_ranks_add_up_to_those_of_all():
    pred, truth, mask = batch(12)
    found = measure(pred, truth, mask)
    whole = MetricSums.empty().plus(found, mask)
    ranks = [
        MetricSums.empty().plus({name: value[rank::3] for name, value in found.items()}, mask[rank::3])
        for rank in range(3)
    ]
    added = MetricSums(sum(rank.sums for rank in ranks))
    assert np.allclose((ranks[0] + ranks[1] + ranks[2]).sums, added.sums)
    assert np.allclose(added.sums, whole.sums, rtol=1e-12)
    assert sum(row["n"] for row in whole.table().values()) == 12
    assert whole.overall()["psnr"] == pytest.approx(found["psnr"].mean().item())


def test_a_picture_counts_in_the_bin_of_its_mask():
    truth = torch.rand(3, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(3, 1, 20, 20)
    mask[0, :, :3] = 0
    mask[1, :, :11] = 0
    mask[2] = 0
    table = MetricSums.empty().plus(measure(truth * 0.5, truth, mask), mask).table()
    assert {name: row["n"] for name, row in table.items()} == {"10-20": 1, "50-60": 1, "60-100": 1}
    assert MetricSums.empty().table() == {}
    assert MetricSums.empty().overall() == {}
