"""The other methods' networks, under weights made by formula, give outputs recorded from the released code to 1e-9.

`parity/` holds the numbers: made in float64 with weights drawn from numpy by position, on pictures made by formula.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from method_recipe import GLCIC_MEAN, assert_as_recorded, edges, expected, filled, hole, picture
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
