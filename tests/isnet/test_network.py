"""Networks: exact sizes, the options where paper and code disagree, their call, and what they refuse."""

from __future__ import annotations

import copy
import io
import subprocess
import sys

import pytest
import torch
from torch import nn

import isnet
from isnet.errors import InputError
from isnet.inference.fast_conv import PackedConv2d, prepare_for_inference
from isnet.layers import initialise, to_unit_range
from isnet.spectral_norm import (
    SpectralConv2d,
    SpectralConvTranspose2d,
    SpectralLayer,
    fold_spectral_norm,
    spectral_layers,
    weight_leaves,
)
from isnet.training.step_weights import power_iteration, step_weights

NAMES = ["isnet", "base", "base_ff", "unet_like"]
SMALL = {"width": 4, "blocks": 1, "init_std": 0.1}


def inputs(size: int = 32, *, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    image_B3HW = torch.rand(2, 3, size, size, generator=generator, dtype=dtype)
    mask_B1HW = torch.ones(2, 1, size, size, dtype=dtype)
    mask_B1HW[..., 8:16, 8:24] = 0
    return image_B3HW, mask_B1HW


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({"name": "isnet", "blocks": 4}, 24_774_307),
        ({"name": "isnet", "blocks": 3}, 23_152_291),
        ({"name": "isnet", "blocks": 2}, 21_530_275),
        ({"name": "isnet", "blocks": 1}, 19_908_259),
        ({"name": "base"}, 16_516_995),
        ({"name": "base_ff"}, 14_610_083),
        ({"name": "unet_like"}, 24_403_715),
        ({"name": "discriminator"}, 2_763_776),
        # 45 % of BaseModel never gets a gradient: without it, 9.05 M.
        ({"name": "base", "prune": True}, 16_516_995 - 7_464_960),
    ],
)
def test_parameter_counts_are_the_papers(options: dict[str, object], parameters: int) -> None:
    with torch.device("meta"):
        assert isnet.build(**options).num_parameters() == parameters


def test_released_isnet_normalises_91_of_its_92_convolutions() -> None:
    with torch.device("meta"):
        network = isnet.build("isnet")
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert (len(convolutions), len(spectral_layers(network))) == (92, 91)
    assert not isinstance(network.stem.shortcut, SpectralLayer)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"in_channels": 4},
        {"activation": "leaky_relu"},
        {"dilation": 1},
        {"spectral_norm": "all"},
        {"spectral_norm": "none"},
        {"width": 3},
    ],
    ids=str,
)
@torch.no_grad()
def test_every_option_gives_a_picture(name: str, options: dict[str, object]) -> None:
    torch.manual_seed(0)
    network = isnet.build(name, **{**SMALL, **options})
    image, mask = inputs()
    prediction = network(image, mask)
    assert prediction.shape == image.shape
    assert float(prediction.min()) >= 0
    assert float(prediction.max()) <= 1
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert convolutions
    normalised = len(spectral_layers(network))
    if options.get("spectral_norm") == "all":
        assert normalised == len(convolutions)
    if options.get("spectral_norm") == "none" or (name == "unet_like" and not options.get("spectral_norm")):
        assert normalised == 0


def test_skips_reach_the_decoder() -> None:
    network = isnet.build("unet_like", skips=True, **SMALL)
    assert network.num_parameters() > isnet.build("unet_like", **SMALL).num_parameters()
    assert network(*inputs()).shape == (2, 3, 32, 32)


@pytest.mark.parametrize("name", NAMES)
def test_what_the_hole_holds_does_not_matter(name: str) -> None:
    network = isnet.build(name, **SMALL)
    image, mask = inputs()
    torch.testing.assert_close(network(image, mask), network(image * mask + 0.7 * (1 - mask), mask), rtol=0, atol=0)


def test_pruned_base_is_base() -> None:
    torch.manual_seed(0)
    base = isnet.build("base", **SMALL)
    pruned = isnet.build("base", prune=True, **SMALL)
    pruned.load_state_dict({name: base.state_dict()[name] for name in pruned.state_dict()})
    assert torch.equal(base(*inputs()), pruned(*inputs()))
    assert pruned.num_parameters() == base.num_live_parameters() < base.num_parameters()


def test_the_dead_weights_of_base_are_those_without_a_gradient() -> None:
    network = isnet.build("base", **SMALL)
    network(*inputs()).sum().backward()
    live = sum(p.numel() for p in network.parameters() if p.grad is not None)
    assert live == network.num_live_parameters()


@pytest.mark.parametrize(
    ("name", "size", "complaint"),
    [
        ("isnet", 24, r"24×24 pixels; isnet needs both sides to be multiples of 16"),
        ("base", 12, r"12×12 pixels; base needs both sides to be multiples of 8"),
        ("base_ff", 24, r"multiples of 16"),
        ("unet_like", 20, r"20×20 pixels; unet_like needs both sides to be multiples of 8"),
        ("unet_like", 8, r"at least 16"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(name: str, size: int, complaint: str) -> None:
    network = isnet.build(name, **SMALL)
    with pytest.raises(InputError, match=complaint):
        network(*inputs(size))


def test_every_network_takes_its_smallest_size() -> None:
    for name in NAMES:
        network = isnet.build(name, **SMALL).eval()
        image, mask = inputs(network.minimum_size)
        assert network(image, mask).shape == image.shape


def test_tensors_that_do_not_fit_are_refused() -> None:
    network = isnet.build("isnet", **SMALL)
    image, mask = inputs()
    for bad in [(image, mask[:1]), (image, mask[..., :16]), (image[:, :1], mask), (image[0], mask[0]), (image, image)]:
        with pytest.raises(InputError, match=r"need \(B, 3, H, W\) and \(B, 1, H, W\)"):
            network(*bad)
    with pytest.raises(InputError, match=r"torch\.uint8; need a floating type"):
        network((image * 255).byte(), mask)


@pytest.mark.parametrize(
    ("name", "options", "complaint"),
    [
        ("isnett", {}, "name is 'isnett'; need one of isnet, base"),
        ("isnet", {"blocks": 0}, "blocks is 0"),
        ("isnet", {"width": 1.5}, "width is 1.5"),
        ("isnet", {"in_channels": 5}, "in_channels is 5; need 3"),
        ("isnet", {"activation": "relu"}, "activation is 'relu'"),
        ("isnet", {"spectral_norm": True}, "spectral_norm is True"),
        ("isnet", {"skips": True}, "skips is True"),
        ("base_ff", {"prune": True}, "prune is True"),
        ("isnet", {"init_std": 0}, "init_std is 0"),
        ("isnet", {"init_std": "x"}, "init_std is 'x'"),
        ("isnet", {"init_std": float("inf")}, "init_std is inf"),
        ("isnet", {"in_channels": 4.0}, "in_channels is 4.0"),
        ("isnet", {"blocks": 65}, "blocks is 65; need a whole number, 1 to 64"),
        ("isnet", {"width": 1025}, "width is 1025; need a whole number, 1 to 1024"),
        ("isnet", {"dilation": 10**30}, "dilation is 10"),
        ("base", {"prune": "no"}, "prune is 'no'; need True or False"),
        ("unet_like", {"skips": 1}, "skips is 1"),
        ("isnet", {"heads": 8}, "architecture has the options"),
        ("discriminator", {"width": 0}, "width is 0"),
        ("discriminator", {"width": True}, "width is True"),
        ("discriminator", {"spectral": "no"}, "spectral is 'no'"),
        ("discriminator", {"init_std": "x"}, "init_std is 'x'"),
        ("discriminator", {"blocks": 4}, "no option blocks"),
    ],
)
def test_options_that_cannot_be_are_refused(name: str, options: dict[str, object], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        isnet.build(name, **options)


def test_discriminator_judges_patches() -> None:
    network = isnet.build("discriminator", width=4)
    assert [tuple(m.shape[1:]) for m in network(torch.rand(1, 3, 256, 256))] == [
        (4, 128, 128),
        (8, 64, 64),
        (16, 32, 32),
        (32, 31, 31),
        (1, 30, 30),
    ]
    assert network(torch.rand(1, 3, 24, 24))[-1].shape == (1, 1, 1, 1)
    with pytest.raises(InputError, match="sides from 24"):
        network(torch.rand(1, 3, 23, 24))


def test_weights_are_drawn_as_the_release_draws_them() -> None:
    torch.manual_seed(0)
    network = isnet.build("isnet", blocks=1, width=16)
    raw = torch.cat([m.weight.detach().flatten() for m in network.modules() if isinstance(m, nn.Conv2d)])
    assert abs(float(raw.std()) - 0.001) < 1e-6
    assert abs(float(raw.mean())) < 1e-6
    assert not network.head.bias.any()


def test_the_same_seed_builds_the_same_network() -> None:
    def state() -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        return isnet.build("isnet", **SMALL).state_dict()

    first, second = state(), state()
    assert len(first) > 100
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_fresh_normalised_weights_have_a_norm_near_one() -> None:
    torch.manual_seed(0)
    layers = spectral_layers(isnet.build("isnet", blocks=1, width=8))
    assert len(layers) == 49
    for layer in layers:
        norm = torch.linalg.matrix_norm(layer.normalised_weight().detach().flatten(1), ord=2)
        assert 0.99 < float(norm) < 1.25


# Spectral norm ------------------------------------------------------------------------------------------------------


def test_iteration_converges_to_the_largest_singular_value() -> None:
    torch.manual_seed(0)
    layer = SpectralConv2d(6, 10, 3, padding=1).double()
    layer.randomise_vectors()
    power_iteration(layer, times=3000)
    torch.testing.assert_close(layer.sigma(), torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2))


def test_iteration_updates_v_then_u() -> None:
    layer = SpectralConv2d(3, 4, 3).double()
    layer.randomise_vectors()
    matrix, u = layer.weight.detach().flatten(1), layer.u.clone()
    power_iteration(layer)
    v = matrix.t() @ u
    v /= v.norm()
    u = matrix @ v
    torch.testing.assert_close(layer.v, v)
    torch.testing.assert_close(layer.u, u / u.norm())


@pytest.mark.parametrize("make", [SpectralConv2d, SpectralConvTranspose2d])
@pytest.mark.parametrize("channels_last", [False, True])
def test_gradients_collected_once_a_step_are_those_of_autograd(make: type[SpectralLayer], channels_last: bool) -> None:
    torch.manual_seed(0)
    layer = make(4, 6, 3, stride=2, padding=1).double()
    layer.randomise_vectors()
    power_iteration(layer)
    plain = copy.deepcopy(layer)
    layer.channels_last = channels_last
    pictures = torch.rand(3, 2, 4, 9, 9, dtype=torch.float64).unbind()

    for x in pictures:
        plain(x).square().sum().backward()
    with step_weights(layer):
        for x in pictures:
            loss = layer(x).square().sum()
            torch.autograd.backward(loss, inputs=weight_leaves(layer))

    torch.testing.assert_close(layer.weight.grad, plain.weight.grad, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(layer.bias.grad, plain.bias.grad)
    assert layer.weight.grad.stride() == layer.weight.stride()


def test_step_weights_end_with_the_step() -> None:
    layer = SpectralConv2d(3, 4, 3)
    layer.randomise_vectors()
    with step_weights(layer):
        held = layer.normalised_weight()
        assert layer.normalised_weight() is held
    with torch.no_grad():
        layer.weight.mul_(3)
        layer.weight[0].add_(1)
    assert not torch.equal(layer.normalised_weight(), held)


def test_sigma_is_float32_under_autocast_and_float64_stays() -> None:
    layer = SpectralConv2d(3, 4, 3)
    layer.randomise_vectors()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer.sigma().dtype == torch.float32
        assert layer(torch.rand(1, 3, 8, 8)).dtype == torch.bfloat16
    for name in NAMES:
        network = isnet.build(name, **SMALL).double()
        assert network(*inputs(dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("name", NAMES)
def test_folding_changes_nothing_but_the_work(name: str) -> None:
    network = isnet.build(name, **{**SMALL, "spectral_norm": "all"}).eval()
    folded = fold_spectral_norm(network)
    assert not spectral_layers(folded)
    assert spectral_layers(network)
    assert torch.equal(folded(*inputs()), network(*inputs()))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("activation", ["tanh", "leaky_relu"])
@torch.no_grad()
def test_prepared_for_inference_it_is_the_same_function(name: str, activation: str) -> None:
    torch.manual_seed(0)
    network = isnet.build(name, activation=activation, **SMALL)
    fast = prepare_for_inference(network)
    assert not spectral_layers(fast)
    assert not any(p.requires_grad for p in fast.parameters())
    for size in (32, 64):
        torch.testing.assert_close(fast(*inputs(size)), network(*inputs(size)), rtol=0, atol=1e-5)


@torch.no_grad()
def test_prepared_float64_is_only_folded() -> None:
    network = isnet.build("isnet", **SMALL).double()
    fast = prepare_for_inference(network)
    assert not [module for module in fast.modules() if isinstance(module, PackedConv2d)]
    assert torch.equal(fast(*inputs(dtype=torch.float64)), network(*inputs(dtype=torch.float64)))


def test_state_survives_a_round_trip() -> None:
    network, other = isnet.build("isnet", **SMALL), isnet.build("isnet", **SMALL)
    assert {name.rpartition(".")[2] for name in network.state_dict()} == {"weight", "bias", "u", "v"}
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(*inputs()), network(*inputs()))


def test_a_whole_network_can_be_saved_and_read() -> None:
    for name in ("isnet", "unet_like", "discriminator"):
        network, file = isnet.build(name, width=2), io.BytesIO()
        torch.save(network, file)
        file.seek(0)
        copied = torch.load(file, weights_only=False)
        assert copied.num_parameters() == network.num_parameters() > 100
        assert all(torch.equal(a, b) for a, b in zip(copied.parameters(), network.parameters(), strict=True))


def test_output_is_never_coarser_than_float32() -> None:
    y = torch.linspace(0.5, 1.5, 1000).bfloat16()
    assert to_unit_range(y).dtype == torch.float32
    assert to_unit_range(y.double()).dtype == torch.float64


@pytest.mark.parametrize("name", NAMES)
def test_bf16_stays_near_float32(name: str) -> None:
    torch.manual_seed(0)
    network = isnet.build(name, **SMALL)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = network(*inputs())
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, network(*inputs()), rtol=0, atol=0.05)


def test_normalised_layers_compile_in_one_graph_held_or_not() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(SpectralConv2d(3, 4, 3), SpectralConv2d(4, 4, 3))
    initialise(network, std=0.1)
    x = torch.rand(2, 3, 9, 9)
    network(x).square().sum().backward()
    expected = [p.grad.clone() for p in network.parameters()]
    assert len(expected) == 4

    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    network.zero_grad()
    compiled(x).square().sum().backward()
    free = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    with step_weights(network):
        compiled(x).square().sum().backward()
    held = [p.grad.clone() for p in network.parameters()]
    for found in (free, held):
        for gradient, reference in zip(found, expected, strict=True):
            torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-6)


def test_importing_isnet_pulls_in_nothing_heavy() -> None:
    heavy = "timm cv2 skimage torchmetrics onnx onnxruntime ray mlflow torch torchvision safetensors"
    code = f"import isnet, sys; print([m for m in {heavy.split()!r} if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_building_and_training_pull_in_no_platform() -> None:
    heavy = "timm cv2 skimage torchmetrics onnx onnxruntime ray mlflow boto3 trainplane"
    code = f"import isnet.gan, isnet.weights, sys; print([m for m in {heavy.split()!r} if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_submodules_load_on_first_use_and_others_do_not_exist() -> None:
    assert isnet.losses.LossWeights().style == 250
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = isnet.nonsense
