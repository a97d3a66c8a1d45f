"""Losses and gradients of the other methods' training steps, as recorded from the released code to 1e-9.

Each step compares every term, the total, and the norm of every gradient, together and by tensor. Networks are whole
and in float64, which takes minutes: at night.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from method_recipe import expected, fill, hole, picture
from torch import Tensor, nn

from isnet import losses
from isnet.methods.aot_gan import loss as aot_loss
from isnet.methods.aot_gan import networks as aot_gan
from isnet.perceptual import PERCEPTUAL_LAYERS, STYLE_LAYERS, Perceptual

Check = tuple[str, float, float]
"""What is compared, what was measured, what was recorded."""


def perceptual(network: Any = "vgg19", **options: Any) -> Perceptual:
    """The VGG of the recipe."""
    vgg = Perceptual("random", network=network, **options).double()
    fill(vgg.convs, expected(network), whole=False)
    return vgg


def compared(recorded: dict[str, Any], measured: dict[str, Tensor]) -> Iterator[Check]:
    for name, value in measured.items():
        yield name, value.item(), recorded[name]


def weighted(terms: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    assert terms.keys() == weights.keys()
    return torch.stack([weights[name] * value for name, value in terms.items()]).sum()


def gradients(loss: Tensor, network: nn.Module, keys: dict[str, str], recorded: dict[str, Any]) -> Iterator[Check]:
    """Norms of the gradient of a loss, together and by tensor."""
    named = dict(network.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), retain_graph=True)
    yield "norm", torch.stack([value.norm() for value in found]).norm().item(), recorded["norm"]
    by_tensor = recorded.get("by_tensor", {})
    for name, value in zip(named, found, strict=True):
        # Gradients that are 0 but for rounding are compared with the whole.
        if by_tensor:
            yield keys[name], value.norm().item(), by_tensor[keys[name]]


def aot_gan_step() -> Iterator[Check]:
    recorded = expected("step_aotgan")
    generator, discriminator = aot_gan.AOTGenerator(), aot_gan.discriminator()
    keys = fill(generator, expected("aotgan_generator"))
    d_keys = fill(discriminator, expected("aotgan_discriminator"))
    vgg = perceptual(normalise=True)
    image, mask = picture(64, 96, batch=2), 1 - hole(64, 96, batch=2)
    truth, prediction = 2 * image - 1, generator(aot_gan.assemble(image, mask))
    fake = discriminator(losses.composite(prediction, truth, mask))[-1]
    real = discriminator(truth)[-1]
    features, of_truth = (vgg(aot_loss.to_unit(x)) for x in (prediction, truth))
    ratio = (1 - mask).mean()
    adversarial = {
        labels: aot_loss.adversarial_loss(fake, mask, labels=labels, global_batch=2, hole_ratio=ratio)
        for labels in ("paper", "released")
    }
    # Gradients of D's own loss need a composite without a graph to G.
    d_fake = discriminator(losses.composite(prediction.detach(), truth, mask))[-1]
    d_loss = {
        labels: aot_loss.discriminator_loss(real, d_fake, mask, labels=labels, global_batch=2)
        for labels in ("paper", "released")
    }
    terms = {
        "l1": losses.l1_loss(prediction, truth, mask, mode="plain", global_batch=2),
        "style": losses.style_loss(features, of_truth, STYLE_LAYERS, global_batch=2),
        "perceptual": losses.perceptual_loss(features, of_truth, PERCEPTUAL_LAYERS, global_batch=2),
        "adversarial": adversarial["released"],
    }
    total = weighted(terms, aot_loss.WEIGHTS)
    names = {"l1": "L1", "style": "Style", "perceptual": "Perceptual", "adversarial": "adversarial"}
    found = {names[name]: value for name, value in terms.items()}
    yield from compared(recorded["losses"], found | {"generator": total, "discriminator": d_loss["released"]})
    paper = {"adversarial": adversarial["paper"], "discriminator": d_loss["paper"]}
    yield from compared(recorded["losses_by_the_paper"], paper)
    yield from gradients(total, generator, keys, recorded["gradients"]["generator"])
    yield from gradients(d_loss["released"], discriminator, d_keys, recorded["gradients"]["discriminator"])


STEPS: dict[str, Callable[[], Iterator[Check]]] = {"aot_gan": aot_gan_step}
COUNTS = {"aot_gan": 124}


@pytest.mark.nightly
@pytest.mark.parametrize("name", STEPS)
def test_every_term_and_gradient_of_a_step_is_as_recorded(name: str) -> None:
    checks = list(STEPS[name]())
    scale = max(abs(wanted) for _, _, wanted in checks)
    worst = max(checks, key=lambda check: abs(check[1] - check[2]) / max(abs(check[2]), 1e-6 * scale))
    largest = abs(worst[1] - worst[2]) / max(abs(worst[2]), 1e-6 * scale)
    print(f"{name}: {len(checks)} checks, largest relative difference {largest:.1e} ({worst[0]})")
    assert math.isfinite(largest)
    assert largest < 1e-9, worst
    assert len(checks) == COUNTS[name]
