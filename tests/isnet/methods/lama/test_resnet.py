"""The dilated ResNet50 of LaMa's perceptual loss: recorded features, weights of its file or of a seed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from method_recipe import assert_as_recorded, expected, fill, picture

from isnet.errors import InputError
from isnet.methods.lama.resnet import DilatedResNet


@pytest.mark.nightly
def test_the_four_maps_are_those_recorded() -> None:
    recorded = expected("lama_resnet50_dilated")
    network = DilatedResNet("random")
    fill(network, recorded)
    for features, of in zip(network(picture(64, 96)), recorded["features"], strict=True):
        assert_as_recorded(features, of)


@pytest.fixture(scope="module")
def network() -> DilatedResNet:
    return DilatedResNet("random")


def test_random_weights_leave_the_global_generator_alone(network: DilatedResNet) -> None:
    torch.manual_seed(1)
    expected_next = torch.rand(1)
    torch.manual_seed(1)
    again = DilatedResNet("random")
    assert torch.equal(torch.rand(1), expected_next)
    assert torch.equal(again.network.layer4[2].conv3.weight, network.network.layer4[2].conv3.weight)
    assert again.source == "random, seed 0"
    assert not network.training
    assert [f.shape[1:] for f in network(torch.rand(1, 3, 32, 32))] == [
        (256, 8, 8), (512, 4, 4), (1024, 4, 4), (2048, 4, 4)
    ]  # fmt: skip


def test_random_features_are_of_one_size_in_all_stages(network: DilatedResNet) -> None:
    torch.manual_seed(0)
    features = network(torch.rand(2, 3, 64, 64))
    assert all(0.3 < f.square().mean().sqrt() < 3 for f in features)
    # Branches take part, so that a later stage is more than a projection of the one before.
    block = network.network.layer1[1]
    assert not torch.allclose(block(features[0]), features[0], atol=0.05)


def test_lamas_file_is_loaded_without_counts(network: DilatedResNet, tmp_path: Path) -> None:
    stem = {
        "conv1.0": "conv1",
        "conv1.1": "bn1",
        "conv1.3": "conv2",
        "conv1.4": "bn2",
        "conv1.6": "conv3",
        "bn1": "bn3",
    }
    state = {}
    for name, value in network.network.state_dict().items():
        path, _, kind = name.rpartition(".")
        if kind != "num_batches_tracked":
            state[f"{stem.get(path, path)}.{kind}"] = value
    state["conv3.weight"] = state["conv3.weight"] + 1
    torch.save(state, tmp_path / "encoder_epoch_20.pth")
    loaded = DilatedResNet(tmp_path / "encoder_epoch_20.pth")
    torch.testing.assert_close(loaded.network.conv1[6].weight, network.network.conv1[6].weight + 1)
    assert "sha256" in loaded.source
    del state["layer3.0.conv1.weight"]
    torch.save(state, tmp_path / "short.pth")
    with pytest.raises(InputError, match=r"layer3\.0\.conv1\.weight is nothing, need \(256, 512, 1, 1\)"):
        DilatedResNet(tmp_path / "short.pth")
    with pytest.raises(InputError, match=r"no ResNet50 weights at .*need LaMa's encoder_epoch_20\.pth, or 'random'"):
        DilatedResNet(tmp_path / "nothing.pth")
