"""The other methods' networks, under weights made by formula, give outputs recorded from the released code to 1e-9.

`parity/` holds the numbers: made in float64 with weights drawn from numpy by position, on pictures made by formula.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from isnet.layers import num_parameters
from isnet.methods.aot_gan import networks as aot_gan
from isnet.methods.ca import networks as ca
from isnet.methods.ca.attention import contextual_attention
from isnet.methods.edgeconnect import networks as edgeconnect
from isnet.methods.glcic import networks as glcic
from isnet.methods.lama import networks as lama
from isnet.methods.lama.fourier import FourierUnit
from isnet.methods.patch_discriminator import PatchDiscriminator
from isnet.methods.pconv import networks as pconv
from isnet.spectral_norm import SpectralLayer

PARITY = Path(__file__).parent / "parity"
GLCIC_MEAN = torch.tensor([0.5061, 0.4254, 0.3828], dtype=torch.float64)


def expected(name: str) -> dict[str, Any]:
    return json.loads((PARITY / f"{name}.json").read_text())


def tensor_of(number: int, entry: dict[str, Any], gain: float, *, released_pconv: bool) -> Tensor:
    """Tensor number i of a file, by its kind."""
    n = np.random.RandomState(number).standard_normal(entry["shape"])
    fan_in = n.size / n.shape[0]
    values = {
        "weight": lambda: n * math.sqrt(fan_in) if released_pconv else n * gain / math.sqrt(fan_in),
        "spectral": lambda: n / entry["sigma"],
        **dict.fromkeys(("bias", "norm_bias", "running_mean"), lambda: 0.1 * n),
        **dict.fromkeys(("norm_weight", "running_var"), lambda: 1 + 0.1 * n),
    }
    return torch.from_numpy(values[entry["kind"]]())


def kind_of(module: nn.Module, name: str) -> str:
    if isinstance(module, nn.BatchNorm2d):
        return {"weight": "norm_weight", "bias": "norm_bias"}.get(name, name)
    if name == "weight" and isinstance(module, SpectralLayer):
        return "spectral"
    return name


def filled(network: nn.Module, recorded: dict[str, Any]) -> nn.Module:
    """The network with the weights of the recipe; each tensor takes the next of its kind and shape."""
    network = network.double().eval()
    entries = list(enumerate(recorded["tensors"]))
    # EdgeConnect's first convolution stands twice; the later one has the values.
    if any(entry["key"] == "features.0.weight" for _, entry in entries):
        entries = [(i, entry) for i, entry in entries if entry["key"] != "conv1.0.weight"]
    # The deepest three levels of PConv's decoder stand in another order than they run.
    entries.sort(key=lambda item: -int(item[1]["key"][4]) if item[1]["key"].startswith("dec_") else -99)
    assert num_parameters(network) == recorded["parameters"]
    released = "n * sqrt(fan-in)" in recorded.get("scale", "")
    for module in network.modules():
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for name, tensor in own:
            if name in ("u", "v", "num_batches_tracked"):
                continue
            wanted = (kind_of(module, name), list(tensor.shape))
            at = next(at for at, (_, entry) in enumerate(entries) if (entry["kind"], entry["shape"]) == wanted)
            number, entry = entries.pop(at)
            with torch.no_grad():
                tensor.copy_(tensor_of(number, entry, recorded.get("gain", 1.0), released_pconv=released))
        if isinstance(module, SpectralLayer):
            module.set_exact_vectors()
    assert not entries
    return network


def picture(height: int, width: int, *, batch: int = 1) -> Tensor:
    b, c, y, x = torch.meshgrid(
        *(torch.arange(size, dtype=torch.float64) for size in (batch, 3, height, width)), indexing="ij"
    )
    return 0.5 + 0.5 * torch.sin(0.11 * (c + 1) * x + 0.07 * y + 0.9 * b)


def hole(height: int, width: int, *, batch: int = 1) -> Tensor:
    mask = torch.zeros(batch, 1, height, width, dtype=torch.float64)
    mask[0::2, :, height // 4 : height // 2, width // 3 : 2 * width // 3] = 1
    mask[1::2, :, height // 2 : 3 * height // 4, width // 6 : width // 2] = 1
    return mask


def edges(height: int, width: int) -> Tensor:
    y, x = torch.meshgrid(*(torch.arange(size) for size in (height, width)), indexing="ij")
    return ((3 * x + 5 * y) % 17 == 0).double()[None, None]


def assert_as_recorded(output: Tensor, recorded: dict[str, Any]) -> None:
    assert list(output.shape) == recorded["shape"]
    assert len(recorded["index"]) >= 8
    scale = max(1.0, abs(recorded["max"]), abs(recorded["min"]))
    values = output.flatten()[torch.tensor(recorded["index"])]
    torch.testing.assert_close(values, torch.tensor(recorded["value"], dtype=torch.float64), rtol=0, atol=1e-9 * scale)
    for name, measured in [("mean", output.mean()), ("min", output.min()), ("max", output.max())]:
        assert measured.item() == pytest.approx(recorded[name], abs=1e-9 * scale)


def edgeconnect_input(kind: str) -> Tensor:
    image, mask, known_edges = picture(64, 96), 1 - hole(64, 96), edges(64, 96)
    if kind == "edge":
        return edgeconnect.assemble_edge(edgeconnect.gray_of(image), known_edges, mask)
    return edgeconnect.assemble_inpaint(image, known_edges, mask)


def signed(height: int, width: int) -> Tensor:
    return 2 * picture(height, width) - 1


SIMPLE: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "aotgan_generator": (
        aot_gan.AOTGenerator,
        lambda: aot_gan.assemble(picture(64, 96), 1 - hole(64, 96)),
    ),
    "edgeconnect_edge_generator": (
        lambda: edgeconnect.EdgeConnectGenerator("edge"),
        lambda: edgeconnect_input("edge"),
    ),
    "edgeconnect_inpaint_generator": (
        lambda: edgeconnect.EdgeConnectGenerator("inpaint"),
        lambda: edgeconnect_input("inpaint"),
    ),
    "glcic_completion": (
        glcic.CompletionNetwork,
        lambda: glcic.assemble(picture(64, 96), 1 - hole(64, 96), GLCIC_MEAN),
    ),
    "ca_local_discriminator": (lambda: ca.Critic(size=128), lambda: signed(128, 128)),
    "ca_global_discriminator": (lambda: ca.Critic(size=256), lambda: signed(256, 256)),
    "lama_fourier_generator": (lama.LamaGenerator, lambda: lama.assemble(picture(64, 96), 1 - hole(64, 96))),
    "lama_big_generator": (
        lambda: lama.LamaGenerator(blocks=18),
        lambda: lama.assemble(picture(64, 96), 1 - hole(64, 96)),
    ),
}


@torch.no_grad()
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.nightly) if name == "lama_big_generator" else name for name in SIMPLE],
)
def test_a_network_gives_the_recorded_output(name: str) -> None:
    build, make_input = SIMPLE[name]
    recorded = expected(name)
    network, x = filled(build(), recorded), make_input()
    if "input_probe" in recorded:
        assert_as_recorded(x, recorded["input_probe"])
    assert_as_recorded(network(x), recorded["output"])


@torch.no_grad()
@pytest.mark.parametrize("form", ["paper", pytest.param("released", marks=pytest.mark.nightly)])
def test_pconv_gives_the_recorded_output_in_both_forms(form: pconv.Form) -> None:
    recorded = expected(f"pconv_unet_{form}")
    network, mask = filled(pconv.PConvUNet(form=form), recorded), 1 - hole(128, 256)
    x = pconv.assemble(picture(128, 256), mask)
    assert_as_recorded(x, recorded["input_probe"])
    assert_as_recorded(network(x, mask), recorded["output"])


@torch.no_grad()
def test_ca_gives_the_recorded_pictures_each_sample_under_its_own_hole() -> None:
    recorded = expected("ca_generator")
    network, mask = filled(ca.CAGenerator(), recorded), hole(64, 96, batch=2)
    assert num_parameters(network.coarse) == recorded["parameters_coarse"]
    assert num_parameters(network.refine) == recorded["parameters_refine"]
    damaged = (2 * picture(64, 96, batch=2) - 1) * (1 - mask)
    assert_as_recorded(torch.cat([damaged, torch.ones_like(mask), mask], dim=1), recorded["input_probe"])
    first, second = network(damaged, mask)
    assert_as_recorded(first, recorded["coarse"])
    assert_as_recorded(second, recorded["output"])


def test_contextual_attention_gives_the_recorded_features() -> None:
    recorded = expected("ca_attention")
    mask = torch.zeros(1, 1, 64, 96, dtype=torch.float64)
    mask[:, :, 16:40, 24:56] = 1
    features = torch.from_numpy(np.random.RandomState(1).standard_normal((1, 8, 16, 24)))
    assert_as_recorded(contextual_attention(features, mask), recorded["output"])
    small = 0.05 * torch.from_numpy(np.random.RandomState(2).standard_normal((1, 8, 16, 24)))
    assert_as_recorded(contextual_attention(small, mask), recorded["output_small_features"])
    assert_as_recorded(contextual_attention(features, torch.ones_like(mask)), recorded["output_all_masked"])


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "size", "crop"), [("celeba", 160, 96), pytest.param("places2", 256, 128, marks=pytest.mark.nightly)]
)
def test_the_context_discriminator_gives_the_recorded_probability(name: str, size: int, crop: int) -> None:
    recorded = expected(f"glcic_discriminator_{name}")
    network = filled(glcic.ContextDiscriminator(size=size, crop=crop), recorded)
    assert num_parameters(network.local) == recorded["parameters_local"]
    assert num_parameters(network.whole) == recorded["parameters_global"]
    image = picture(size, size)
    part = image[:, :, 40 : 40 + crop, 24 : 24 + crop]
    assert_as_recorded(network(image, part), recorded["output"])
    for features, of in zip(network.features(image, part), recorded["features"], strict=True):
        assert_as_recorded(features, of)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["edge", "inpaint"])
def test_edgeconnects_discriminators_give_the_recorded_maps(kind: str) -> None:
    recorded = expected(f"edgeconnect_{kind}_discriminator")
    x = picture(64, 96)
    if kind == "edge":
        x = torch.cat([edgeconnect.gray_of(x), edges(64, 96)], dim=1)
    maps = filled(PatchDiscriminator(x.shape[1]), recorded)(x)
    assert_as_recorded(torch.sigmoid(maps[-1]), recorded["output"])
    for features, of in zip(maps, recorded["features"], strict=True):
        assert_as_recorded(features, of)


@torch.no_grad()
def test_aot_gans_discriminator_gives_the_recorded_logits() -> None:
    recorded = expected("aotgan_discriminator")
    assert_as_recorded(filled(aot_gan.discriminator(), recorded)(signed(64, 96))[-1], recorded["output"])


@torch.no_grad()
def test_lamas_discriminator_gives_the_recorded_logits_and_maps() -> None:
    recorded = expected("lama_discriminator")
    logits, maps = filled(lama.LamaDiscriminator(), recorded)(picture(64, 96))
    assert_as_recorded(logits, recorded["output"])
    for features, of in zip(maps, recorded["features"], strict=True):
        assert_as_recorded(features, of)


@torch.no_grad()
def test_the_fourier_unit_takes_odd_sides() -> None:
    recorded = expected("lama_fourier_unit")
    unit = filled(FourierUnit(4), recorded)
    for name, shape in (("output", (1, 4, 10, 14)), ("output_odd", (1, 4, 9, 13))):
        x = torch.from_numpy(np.random.RandomState(1).standard_normal(shape))
        assert_as_recorded(unit(x), recorded[name])


@torch.no_grad()
@pytest.mark.parametrize("name", ["glcic_completion", "lama_fourier_generator"])
def test_batch_statistics_are_those_of_the_batch(name: str) -> None:
    build, _ = SIMPLE[name]
    recorded = expected(name)
    network, image, mask = filled(build(), recorded).train(), picture(64, 96, batch=2), 1 - hole(64, 96, batch=2)
    x = lama.assemble(image, mask) if name.startswith("lama") else glcic.assemble(image, mask, GLCIC_MEAN)
    assert_as_recorded(network(x), recorded["output_train_batch_2"])
