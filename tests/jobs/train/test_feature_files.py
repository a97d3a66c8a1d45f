"""Weights of the perceptual loss may lie in the store, and must have the digest that the configuration names."""

import hashlib

import pytest
import torch
from safetensors.torch import save

from isnet.errors import InputError
from jobs.config import load_isnet_config
from jobs.train.networks import build_perceptual
from trainplane.errors import UserError
from trainplane.storage import open_store

LAYERS = ["loss.perceptual=0.1", 'loss.perceptual_layers=["relu1_1"]', 'loss.style_layers=["relu1_1"]']


def config_of(weights, *more):
    return load_isnet_config("demo", [*LAYERS, f"loss.perceptual_weights={weights}", *more])


@pytest.fixture
def weights(s3_address, tmp_path, monkeypatch):
    """The first layer of a VGG19 in the store; returns its address and digest."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    data = save({"features.0.weight": torch.rand(64, 3, 3, 3), "features.0.bias": torch.zeros(64)})
    open_store(s3_address).write("vgg19.safetensors", data)
    return f"{s3_address}/vgg19.safetensors", hashlib.sha256(data).hexdigest()


def test_an_address_is_read_and_its_digest_is_part_of_the_run(weights):
    address, digest = weights
    config = config_of(address, f"loss.perceptual_digest={digest}")
    config.loss.check_files()
    assert build_perceptual(config).source.endswith(f"sha256 {digest}")
    assert config.identity()["loss"]["perceptual_digest"] == digest
    # Without it, the key is that of runs from before the setting existed.
    assert "perceptual_digest" not in config_of(address).identity()["loss"]


def test_other_weights_under_the_same_address_are_refused(weights):
    address, digest = weights
    with pytest.raises(InputError, match=f"is not the digest of loss.perceptual_weights={address} .*{digest}.*give"):
        build_perceptual(config_of(address, f"loss.perceptual_digest={'0' * 64}"))


def test_an_address_of_nothing_is_refused_before_anything_starts(weights):
    address, _ = weights
    with pytest.raises(UserError, match=r"vgg20\.safetensors: no such object; give the address"):
        config_of(address.replace("vgg19", "vgg20")).loss.check_files()
