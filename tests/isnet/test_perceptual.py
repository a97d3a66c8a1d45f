"""VGG19: the specified layers, and weights from the requested source alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from method_recipe import assert_as_recorded, expected, fill, picture
from safetensors.torch import save_file
from torch import Tensor, nn

from isnet.errors import InputError
from isnet.perceptual import HUB_ID, LAYERS, PERCEPTUAL_LAYERS, POOL_LAYERS, STYLE_LAYERS, Perceptual, Vgg

# Where a relu ends in the usual list of features (torchvision's), and the widths there.
RELU_ENDS = [1, 3, 6, 8, 11, 13, 15, 17, 20, 22, 24, 26, 29, 31, 33, 35]
WIDTHS = [64, 64, 128, 128, 256, 256, 256, 256, 512, 512, 512, 512, 512, 512, 512, 512]
SHALLOW = {"perceptual_layers": ["relu1_1", "relu2_1"], "style_layers": ["relu2_2"]}


def feature_list() -> nn.Sequential:
    """VGG19's features as everyone lists them, with random weights."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    channels = 3
    for i, width in enumerate(WIDTHS):
        if i in (2, 4, 8, 12):
            layers.append(nn.MaxPool2d(2))
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers)


def state(prefix: str, *, count: int = 16) -> dict[str, Tensor]:
    tensors = {f"{prefix}{name}": value for name, value in feature_list().state_dict().items()}
    return dict(list(tensors.items())[: 2 * count])


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("prefix", ["features.", "features_", "module.features.", ""])
def test_layers_are_the_specs_whatever_the_files_layout(tmp_path: Path, prefix: str, suffix: str) -> None:
    file = tmp_path / f"vgg{suffix}"
    tensors = {**state(prefix, count=4), "classifier.0.weight": torch.zeros(2)}
    if suffix == ".pth":
        torch.save(tensors, file)
    else:
        save_file(tensors, file)
    perceptual = Perceptual(file, perceptual_layers=LAYERS[:4], style_layers=[])
    x_B3HW = torch.rand(1, 3, 16, 16)
    found = perceptual(x_B3HW)
    x = x_B3HW
    for index, layer in enumerate(feature_list()[:9]):
        x = layer(x)
        if index in RELU_ENDS:
            torch.testing.assert_close(found[LAYERS[RELU_ENDS.index(index)]], x)
    assert str(file) in perceptual.source
    assert "sha256" in perceptual.source


def test_all_sixteen_layers_by_name() -> None:
    features = Perceptual("random", perceptual_layers=LAYERS, style_layers=[])(torch.rand(1, 3, 16, 16))
    assert list(features) == list(LAYERS)
    assert [f.shape[1] for f in features.values()] == WIDTHS
    assert [f.shape[2] for f in features.values()] == [16] * 2 + [8] * 2 + [4] * 4 + [2] * 4 + [1] * 4


def test_nothing_deeper_than_the_deepest_tap_exists() -> None:
    assert len(Perceptual("random", **SHALLOW).convs) == 4
    default = Perceptual("random")
    assert (default.perceptual_layers, default.style_layers) == (PERCEPTUAL_LAYERS, STYLE_LAYERS)
    assert list(default.convs)[-1] == "relu5_2"
    assert set(default(torch.rand(1, 3, 32, 32))) == set(PERCEPTUAL_LAYERS + STYLE_LAYERS)


def test_random_weights_are_the_seeds_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    first = Perceptual("random", **SHALLOW)
    assert torch.equal(torch.rand(2), expected)
    second, other = Perceptual("random", **SHALLOW), Perceptual("random", seed=1, **SHALLOW)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.convs["relu1_1"].weight, other.convs["relu1_1"].weight)
    assert first.source == "random, seed 0"


def test_random_activations_keep_their_scale() -> None:
    features = Perceptual("random")(torch.rand(2, 3, 64, 64))
    assert features.keys() == set(PERCEPTUAL_LAYERS + STYLE_LAYERS)
    for name, feature in features.items():
        assert 0.05 < float(feature.square().mean().sqrt()) < 5, name


def test_is_frozen_but_lets_gradients_through() -> None:
    perceptual = Perceptual("random", **SHALLOW)
    image = torch.rand(1, 3, 16, 16, requires_grad=True)
    sum(f.sum() for f in perceptual(image).values()).backward()
    assert float(image.grad.abs().sum()) > 0
    assert {p.requires_grad for p in perceptual.parameters()} == {False}


def test_normalising_is_an_option() -> None:
    plain, normalised = Perceptual("random", **SHALLOW), Perceptual("random", normalise=True, **SHALLOW)
    image = torch.rand(1, 3, 16, 16)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    by_hand = (image - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    torch.testing.assert_close(normalised(image)["relu2_2"], plain(by_hand)["relu2_2"])


@pytest.mark.parametrize("weights", ["", "nowhere/vgg19.pth", "imagenet"])
def test_without_weights_it_asks_for_random_to_be_said(weights: str) -> None:
    with pytest.raises(InputError, match=r"no VGG19 weights at .* or 'random', whose features"):
        Perceptual(weights)


def test_a_hub_out_of_reach_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"neither in the local cache nor available.* give its path, or 'random'"):
        Perceptual(HUB_ID)


def test_files_of_something_else_are_refused(tmp_path: Path) -> None:
    tensors = state("features.", count=4)
    tensors["features.2.weight"] = torch.zeros(64, 64, 5, 5)
    torch.save(tensors, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"features\.2\.weight \(relu1_2\) is \(64, 64, 5, 5\), need \(64, 64, 3, 3\)"):
        Perceptual(tmp_path / "other.pth", **SHALLOW)
    torch.save(state("features.", count=2), tmp_path / "short.pth")
    with pytest.raises(InputError, match=r"features\.5\.weight \(relu2_1\) is nothing"):
        Perceptual(tmp_path / "short.pth", **SHALLOW)
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    with pytest.raises(InputError, match="cannot be read"):
        Perceptual(tmp_path / "cut.safetensors", **SHALLOW)
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError, match="cannot be read"):
        Perceptual(tmp_path / "cut.pth", **SHALLOW)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"features.0.weight": torch.full((64, 3, 3, 3), torch.nan)}, "NaN or infinity in 0.weight"),
        ({"features.0.weight": 1}, r"features\.0\.weight .* is nothing"),
        ({0: torch.zeros(1), "features.0.bias": 2}, r"features\.0\.bias .* is nothing"),
        ({"features.0.weight": torch.zeros(1).expand(64, 3, 3, 3)}, "holds fewer numbers"),
    ],
)
def test_tensors_that_are_none_are_refused(tmp_path: Path, change: dict[object, object], complaint: str) -> None:
    torch.save({**state("features.", count=4), **change}, tmp_path / "odd.pth")
    with pytest.raises(InputError, match=complaint):
        Perceptual(tmp_path / "odd.pth", **SHALLOW)


def test_layers_that_do_not_exist_are_refused() -> None:
    with pytest.raises(InputError, match="VGG19 has no layer relu3_5"):
        Perceptual("random", perceptual_layers=["relu3_5"])
    with pytest.raises(InputError, match="both empty"):
        Perceptual("random", perceptual_layers=[], style_layers=[])


def test_pictures_too_small_for_the_deepest_layer_are_refused() -> None:
    with pytest.raises(InputError, match=r"got shape \(1, 3, 8, 8\).*sides from 16"):
        Perceptual("random")(torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize("network", ["vgg19", "vgg16"])
def test_the_first_maps_are_those_recorded(network: Vgg) -> None:
    recorded = expected(network)
    taps = ["pool1"] if network == "vgg16" else ["relu1_1", "relu2_1"]
    vgg = Perceptual("random", network=network, perceptual_layers=taps, style_layers=[]).double()
    fill(vgg.convs, recorded, whole=False)
    for name, features in vgg(picture(64, 96)).items():
        assert_as_recorded(features, recorded["features"][name])


@pytest.mark.nightly
@pytest.mark.parametrize("network", ["vgg19", "vgg16"])
def test_all_maps_are_those_recorded(network: Vgg) -> None:
    recorded = expected(network)
    vgg = Perceptual("random", network=network, perceptual_layers=list(recorded["features"]), style_layers=[]).double()
    fill(vgg.convs, recorded, whole=False)
    found = vgg(picture(64, 96))
    assert found.keys() == recorded["features"].keys()
    for name, features in found.items():
        assert_as_recorded(features, recorded["features"][name])


def test_vgg16_has_fewer_layers_and_its_own_weights(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"VGG16 has no layer relu3_4, relu4_4; need names from relu1_1 to relu5_3, or pool1"
    ):
        Perceptual("random", network="vgg16")
    vgg = Perceptual("random", network="vgg16", perceptual_layers=POOL_LAYERS, style_layers=POOL_LAYERS)
    assert sum(p.numel() for p in vgg.parameters()) == 1_735_488
    assert vgg.minimum_size == 8
    assert [f.shape[2] for f in vgg(torch.rand(1, 3, 16, 16)).values()] == [8, 4, 2]
    # A file of VGG19 has other indices from the third block on.
    save_file(state("features."), tmp_path / "vgg19.safetensors")
    options = {"network": "vgg16", "perceptual_layers": ["pool4"], "style_layers": []}
    with pytest.raises(InputError, match=r"is it a VGG16 without batch norm"):
        Perceptual(tmp_path / "vgg19.safetensors", **options)
