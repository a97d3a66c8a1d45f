"""A network that takes another one's weights is the same function, raw or folded, at once and as it goes on."""

import pytest
import torch
from torch import nn

import isnet
from isnet.spectral_norm import fold_spectral_norm, spectral_layers
from isnet.training.start import load_weights, match_weights
from isnet.training.step_weights import power_iteration


@pytest.fixture(scope="module")
def trained():
    """A small network whose u and v lag behind its weights, as in training."""
    torch.manual_seed(1)
    net = isnet.build("isnet", blocks=1, width=8)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-4)
    for _ in range(6):
        power_iteration(net)
        optimizer.zero_grad()
        (predict(net) - 0.2).abs().mean().backward()
        optimizer.step()
    return net


def predict(net):
    image = torch.linspace(0, 1, 3 * 32 * 32).view(1, 3, 32, 32)
    mask = torch.ones(1, 1, 32, 32)
    mask[..., 8:24, 8:24] = 0
    return net(image, mask)


def fresh(**options):
    torch.manual_seed(2)
    return isnet.build("isnet", **{"blocks": 1, "width": 8, **options})


def far(first, second):
    return float((first - second).abs().max())


@torch.no_grad()
def test_raw_weights_are_taken_bit_for_bit(trained):
    net = fresh()
    match = load_weights(net, trained.state_dict())
    assert len(match.fitting) == len(net.state_dict())
    assert torch.equal(predict(net), predict(trained))


@torch.no_grad()
def test_folded_weights_become_raw_ones_of_the_same_function(trained):
    folded = fold_spectral_norm(trained)
    net = fresh()
    match = load_weights(net, folded.state_dict())
    assert str(match) == ""
    assert far(predict(net), predict(folded)) < 1e-4
    for layer in spectral_layers(net):
        assert float(layer.sigma()) == pytest.approx(1, abs=1e-5)
        assert float(layer.u.norm()) == pytest.approx(1, abs=1e-3)
        assert float(layer.v.norm()) == pytest.approx(1, abs=1e-3)


@torch.no_grad()
def test_the_next_iteration_moves_a_folded_start_little(trained):
    net = fresh()
    load_weights(net, fold_spectral_norm(trained).state_dict())
    power_iteration(net)
    moved = sum(abs(float(layer.sigma()) - 1) for layer in spectral_layers(net))
    # Exact vectors divide each layer by its largest singular value at once.
    for layer in spectral_layers(net):
        layer.set_exact_vectors()
    assert moved < 0.5 * sum(abs(float(layer.sigma()) - 1) for layer in spectral_layers(net))


@torch.no_grad()
def test_a_plain_network_takes_raw_weights_divided_by_their_sigma(trained):
    net = fresh(spectral_norm="none")
    match = load_weights(net, trained.state_dict())
    assert str(match) == ""
    assert far(predict(net), predict(trained)) < 1e-4


def test_what_does_not_fit_is_named():
    with torch.device("meta"):
        net = isnet.build("isnet", blocks=1, width=8)
    given = {**fresh(width=4).state_dict(), "extra.weight": torch.zeros(1)}
    del given["head.bias"]
    match = match_weights(net, given)
    assert match.missing == ("head.bias",)
    assert match.surplus == ("extra.weight",)
    shapes = {name: shapes for name, *shapes in match.mismatched}
    assert shapes["stem.shortcut.weight"] == [(4, 3, 1, 1), (8, 3, 1, 1)]
    assert "head.bias is missing, extra.weight is surplus and" in str(match)


@torch.no_grad()
def test_a_weight_that_never_had_spectral_norm_keeps_its_function_for_now():
    layer = spectral_layers(fresh())[0]
    with torch.no_grad():
        layer.weight.normal_(0, 3)
    x = torch.rand(1, layer.in_channels, 8, 8)
    plain = nn.functional.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation)
    layer.set_folded_vectors()
    torch.testing.assert_close(layer(x), plain, rtol=1e-4, atol=1e-4)
