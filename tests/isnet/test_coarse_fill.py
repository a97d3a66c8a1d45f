"""The smooth fill, and networks that add to it."""

import numpy as np
import pytest
import torch

import isnet
from isnet.coarse_fill import harmonic_fill
from isnet.errors import InputError
from isnet.masks import irregular
from isnet.weights import load_model, save_model

SMALL = {"name": "isnet", "width": 4, "blocks": 1, "in_channels": 4, "spectral_norm": "none", "init": "kaiming"}


def pair(size=64, ratio=(0.3, 0.4)):
    hole = irregular(size, size, np.random.default_rng(3), ratio=ratio)
    mask = torch.from_numpy(~hole)[None, None].float()
    rows = torch.linspace(0.1, 0.9, size)
    # A plane is harmonic: the fill should return it.
    plane = torch.stack([rows[:, None].expand(size, size), rows.expand(size, size), torch.full((size, size), 0.5)])
    return plane[None], mask


def test_a_smooth_picture_is_restored():
    picture, mask = pair()
    filled = harmonic_fill(picture * mask, mask)
    assert torch.equal(filled * mask, picture * mask)
    # Where a hole reaches the picture's edge, nothing says how the plane goes on.
    assert ((filled - picture).abs() * (1 - mask)).sum() / (3 * (1 - mask).sum()) < 0.01
    assert (filled - picture).abs().max() < 0.1


@pytest.mark.parametrize("size", [16, 48])
def test_holes_of_any_width_get_colours_of_the_picture(size):
    mask = torch.zeros(2, 1, size, size)
    mask[0, :, 0, 0] = 1
    filled = harmonic_fill(torch.full((2, 3, size, size), 0.7) * mask, mask)
    assert torch.allclose(filled[0], torch.full((3, size, size), 0.7), atol=1e-5)
    # Nothing is known of the second one.
    assert torch.isfinite(filled).all()


def test_a_fresh_network_adds_nothing_and_gradients_reach_it():
    picture, mask = pair(32)
    torch.manual_seed(0)
    network = isnet.build(**SMALL, coarse="harmonic")
    prediction = network(picture, mask)
    assert torch.equal(prediction, harmonic_fill(picture * mask, mask).clamp(0, 1))
    (prediction - picture).abs().sum().backward()
    assert network.head.weight.grad.abs().sum() > 0


def test_what_is_added_stays_inside_the_hole_and_in_range(tmp_path):
    picture, mask = pair(32)
    torch.manual_seed(0)
    network = isnet.build(**SMALL, coarse="harmonic")
    torch.nn.init.normal_(network.head.weight, std=5.0)
    with torch.no_grad():
        prediction = network(picture, mask)
        assert torch.equal(prediction * mask, picture * mask)
        assert not torch.allclose(prediction, picture, atol=0.05)
        assert prediction.min() >= 0
        assert prediction.max() <= 1
        # Stored and loaded, it is the same network.
        save_model(network, tmp_path)
        assert torch.equal(load_model(tmp_path)(picture, mask), prediction)


@pytest.mark.parametrize("options", [{"spectral_norm": "released"}, {"name": "base"}, {"name": "unet_like"}])
def test_networks_that_cannot_begin_with_the_fill_are_refused(options):
    with pytest.raises(InputError, match="option coarse is 'harmonic'; need 'none' unless"):
        isnet.build(**{**SMALL, **options}, coarse="harmonic")


def test_kaiming_weights_keep_the_size_of_the_signal():
    picture, mask = pair(32)
    sizes = {}
    for init in ("normal", "kaiming"):
        torch.manual_seed(0)
        network = isnet.build(**{**SMALL, "init": init}, activation="leaky_relu")
        maps = []
        network.fusion.register_forward_hook(lambda _, __, output, maps=maps: maps.append(output))
        network(picture, mask)
        sizes[init] = maps[0].std().item()
    assert sizes["normal"] < 1e-6
    assert 0.1 < sizes["kaiming"] < 10
