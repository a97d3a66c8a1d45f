"""Losses and gradients of the other methods' training steps, as recorded from the released code to 1e-9.

Every recorded number is compared: terms, totals, and norms of gradients, together and by tensor. Networks are whole and
in float64, which takes minutes: at night.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from method_recipe import GLCIC_MEAN, assert_as_recorded, edges, expected, fill, filled, hole, picture
from torch import Tensor, nn

from isnet import losses
from isnet.methods.aot_gan import loss as aot_loss
from isnet.methods.aot_gan import networks as aot_gan
from isnet.methods.ca import loss as ca_loss
from isnet.methods.ca import networks as ca
from isnet.methods.edgeconnect import loss as edgeconnect_loss
from isnet.methods.edgeconnect import networks as edgeconnect
from isnet.methods.glcic import loss as glcic_loss
from isnet.methods.glcic import networks as glcic
from isnet.methods.lama import loss as lama_loss
from isnet.methods.lama import networks as lama
from isnet.methods.lama.resnet import DilatedResNet
from isnet.methods.local_crop import crops
from isnet.methods.patch_discriminator import PatchDiscriminator
from isnet.methods.pconv import loss as pconv_loss
from isnet.methods.pconv import networks as pconv
from isnet.perceptual import PERCEPTUAL_LAYERS, POOL_LAYERS, STYLE_LAYERS, Perceptual

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
    found = torch.autograd.grad(loss, list(named.values()), retain_graph=True, materialize_grads=True)
    yield "norm", torch.stack([value.norm() for value in found]).norm().item(), recorded["norm"]
    by_tensor = recorded.get("by_tensor", {})
    for name, value in zip(named, found, strict=True) if by_tensor else ():
        # EdgeConnect's first convolution has two names.
        key = keys[name].replace("features.0", "conv1.0")
        yield key, value.norm().item(), by_tensor[key]


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


def edge_step(kind: losses.GanKind) -> Iterator[Check]:
    recorded = expected(f"step_edgeconnect_edge_{kind}")
    generator, discriminator = edgeconnect.EdgeConnectGenerator("edge"), PatchDiscriminator(2)
    keys = fill(generator, expected("edgeconnect_edge_generator"))
    d_keys = fill(discriminator, expected("edgeconnect_edge_discriminator"))
    image, known, mask = picture(64, 96, batch=2), edges(64, 96, batch=2), 1 - hole(64, 96, batch=2)
    gray = edgeconnect.gray_of(image)
    prediction = generator(edgeconnect.assemble_edge(gray, known, mask))
    real = discriminator(edgeconnect_loss.edge_pair(gray, known))
    fake = discriminator(edgeconnect_loss.edge_pair(gray, prediction))
    d_fake = discriminator(edgeconnect_loss.edge_pair(gray, prediction.detach()))
    terms = {
        "adversarial": losses.adversarial_loss(fake[-1], kind=kind, global_batch=2),
        "feature_matching": losses.feature_matching_loss(fake, real, global_batch=2),
    }
    total = weighted(terms, edgeconnect_loss.EDGE_WEIGHTS)
    d_loss = losses.discriminator_loss(real[-1], d_fake[-1], kind=kind, global_batch=2)
    found = {"l_g1": terms["adversarial"], "l_fm": 10 * terms["feature_matching"], "l_d1": d_loss}
    yield from compared(recorded["losses"], found | {"generator": total, "discriminator": d_loss})
    if "gradients" in recorded:
        yield from gradients(total, generator, keys, recorded["gradients"]["generator"])
        yield from gradients(d_loss, discriminator, d_keys, recorded["gradients"]["discriminator"])


def inpaint_step(stage: int) -> Iterator[Check]:
    recorded = expected("step_edgeconnect_inpaint" if stage == 2 else "step_edgeconnect_stage3")
    generator, discriminator = edgeconnect.EdgeConnectGenerator("inpaint"), PatchDiscriminator(3)
    keys = fill(generator, expected("edgeconnect_inpaint_generator"))
    d_keys = fill(discriminator, expected("edgeconnect_inpaint_discriminator"))
    image, known, mask = picture(64, 96, batch=2), edges(64, 96, batch=2), 1 - hole(64, 96, batch=2)
    if stage == 3:
        first = filled(edgeconnect.EdgeConnectGenerator("edge"), expected("edgeconnect_edge_generator"))
        with torch.no_grad():
            predicted = first(edgeconnect.assemble_edge(edgeconnect.gray_of(image), known, mask))
        known = edgeconnect_loss.joined_edges(predicted, known, mask)
        assert_as_recorded(known, recorded["edge_input"])
    prediction = generator(edgeconnect.assemble_inpaint(image, known, mask))
    vgg = perceptual()
    features, of_truth = vgg(prediction), vgg(image)
    styles = [vgg(x) for x in edgeconnect_loss.style_views(prediction, image, mask)]
    real, fake, d_fake = discriminator(image), discriminator(prediction), discriminator(prediction.detach())
    ratio = (1 - mask).mean()
    terms = {
        "l1": losses.l1_loss(prediction, image, mask, mode="hole_ratio", hole_ratio=ratio, global_batch=2),
        "adversarial": losses.adversarial_loss(fake[-1], kind="nsgan", global_batch=2),
        "perceptual": losses.perceptual_loss(features, of_truth, PERCEPTUAL_LAYERS, global_batch=2),
        "style": losses.style_loss(*styles, STYLE_LAYERS, global_batch=2),
    }
    total = weighted(terms, edgeconnect_loss.INPAINT_WEIGHTS)
    d_loss = losses.discriminator_loss(real[-1], d_fake[-1], kind="nsgan", global_batch=2)
    names = {"l1": "l_l1", "adversarial": "l_g2", "perceptual": "l_per", "style": "l_sty"}
    found = {names[name]: edgeconnect_loss.INPAINT_WEIGHTS[name] * value for name, value in terms.items()}
    found |= {"l_d2": d_loss, "discriminator": d_loss, "generator": total}
    yield from compared(recorded["losses"], found)
    yield from gradients(total, generator, keys, recorded["gradients"]["generator"])
    if "discriminator" in recorded["gradients"]:
        yield from gradients(d_loss, discriminator, d_keys, recorded["gradients"]["discriminator"])


def pconv_step(form: pconv.Form, phase: str) -> Iterator[Check]:
    recorded = expected(f"step_pconv_{form}_{phase}")
    network = pconv.PConvUNet(form=form)
    keys = fill(network, expected(f"pconv_unet_{form}"))
    network.train()
    if phase == "finetune":
        network.encoder.eval()
    image, mask = picture(128, 256, batch=2), 1 - hole(128, 256, batch=2)
    truth = pconv.assemble(image, torch.ones_like(mask))
    prediction = network(pconv.assemble(image, mask), mask)
    composite = losses.composite(prediction, truth, mask)
    vgg = perceptual("vgg16", perceptual_layers=POOL_LAYERS, style_layers=POOL_LAYERS)
    maps = [vgg(x) for x in (prediction, composite, truth)]
    terms = {
        "valid": pconv_loss.valid_loss(prediction, truth, mask, global_batch=2),
        "hole": pconv_loss.hole_loss(prediction, truth, mask, global_batch=2),
        "perceptual": pconv_loss.perceptual_loss(*maps, POOL_LAYERS, global_batch=2),
        "style": pconv_loss.style_loss(*maps, POOL_LAYERS, global_batch=2),
        "total_variation": pconv_loss.total_variation_loss(composite, mask, over="released", global_batch=2),
    }
    total = weighted(terms, pconv_loss.WEIGHTS)
    names = {"perceptual": "prc", "total_variation": "tv"}
    found = {names.get(name, name): value for name, value in terms.items()}
    yield from compared(recorded["losses"], found | {"total": total})
    yield from gradients(total, network, keys, recorded["gradients"]["generator"])


def lama_step(resnet_mode: str) -> Iterator[Check]:
    recorded = expected("step_lama" if resnet_mode == "eval" else "step_lama_resnet_in_train_mode")
    generator, discriminator = lama.LamaGenerator(), lama.LamaDiscriminator()
    keys = fill(generator, expected("lama_fourier_generator"))
    d_keys = fill(discriminator, expected("lama_discriminator"))
    resnet = DilatedResNet("random")
    fill(resnet, expected("lama_resnet50_dilated"))
    for network in (generator, discriminator):
        network.train()
    resnet.train(resnet_mode == "train")
    image, mask = picture(64, 96, batch=2).requires_grad_(), 1 - hole(64, 96, batch=2)
    prediction = generator(lama.assemble(image.detach(), mask))
    fake_logits, fake_maps = discriminator(prediction)
    real_logits, real_maps = discriminator(image)
    d_fake_logits, _ = discriminator(prediction.detach())
    terms = {
        "l1": losses.masked_l1_loss(prediction, image, mask, global_batch=2),
        "adversarial": losses.adversarial_loss(fake_logits, kind="nsgan", global_batch=2),
        "feature_matching": lama_loss.feature_matching_loss(fake_maps, real_maps, global_batch=2),
        "perceptual": lama_loss.perceptual_loss(resnet(prediction), resnet(image.detach()), global_batch=2),
    }
    total = weighted(terms, lama_loss.WEIGHTS)
    penalty = lama_loss.R1 * lama_loss.r1_penalty(real_logits, image, global_batch=2)
    d_loss = lama_loss.discriminator_loss(real_logits, d_fake_logits, mask, global_batch=2) + penalty
    names = {"l1": "gen_l1", "adversarial": "gen_adv", "feature_matching": "gen_fm", "perceptual": "gen_resnet_pl"}
    found = {names[name]: lama_loss.WEIGHTS[name] * value for name, value in terms.items()}
    found |= {"d_adv_discr_real_gp": penalty, "d_discr_adv": d_loss, "generator": total, "discriminator": d_loss}
    found |= {"d_adv_discr_real_out": real_logits.mean(), "d_adv_discr_fake_out": fake_logits.mean()}
    yield from compared(recorded["losses"], found)
    yield from gradients(total, generator, keys, recorded["gradients"]["generator"])
    yield from gradients(d_loss, discriminator, d_keys, recorded["gradients"]["discriminator"])


def glcic_step() -> Iterator[Check]:
    recorded = expected("step_glcic")
    generator, discriminator = glcic.CompletionNetwork(), glcic.ContextDiscriminator(size=160, crop=96)
    keys = fill(generator, expected("glcic_completion"))
    d_keys = fill(discriminator, expected("glcic_discriminator_celeba"))
    for network in (generator, discriminator):
        network.train()
    image, mask = picture(160, 160, batch=2), torch.ones(2, 1, 160, 160, dtype=torch.float64)
    mask[0, :, 60:120, 40:100] = 0
    mask[1, :, 48:100, 30:110] = 0
    prediction = generator(glcic.assemble(image, mask, GLCIC_MEAN))
    fake = glcic_loss.judged(prediction, image, mask, form="released")
    around, elsewhere = torch.tensor([[40, 24]] * 2), torch.tensor([[12, 50]] * 2)
    fake_logits = discriminator.logits(fake, crops(fake, around, 96))
    d_fake_logits = discriminator.logits(fake.detach(), crops(fake.detach(), around, 96))
    real_logits = discriminator.logits(image, crops(image, elsewhere, 96))
    completion = glcic_loss.completion_loss(prediction, image, mask, global_batch=2)
    adversarial = losses.adversarial_loss(fake_logits, kind="nsgan", global_batch=2)
    d_loss = losses.discriminator_loss(real_logits, d_fake_logits, kind="nsgan", global_batch=2)
    joint = glcic_loss.joint_generator_loss(completion, adversarial)
    found = {
        "phase1_mse": completion,
        "d_fake": losses.adversarial_loss(-d_fake_logits, kind="nsgan", global_batch=2),
        "d_real": losses.adversarial_loss(real_logits, kind="nsgan", global_batch=2),
        "phase2_discriminator": d_loss,
        "phase3_discriminator": glcic_loss.joint_discriminator_loss(d_loss, form="released"),
        "g_adversarial": adversarial,
        "phase3_generator": joint,
    }
    yield from compared(recorded["losses"], found)
    yield from gradients(completion, generator, keys, recorded["gradients"]["generator_phase1"])
    yield from gradients(joint, generator, keys, recorded["gradients"]["generator_phase3"])
    yield from gradients(d_loss, discriminator, d_keys, recorded["gradients"]["discriminator_phase2"])


def ca_step() -> Iterator[Check]:
    recorded = expected("step_ca")
    generator = ca.CAGenerator()
    critics = {"local": ca.Critic(size=128), "global": ca.Critic(size=256)}
    keys = fill(generator, expected("ca_generator"))
    d_keys = {name: fill(critic, expected(f"ca_{name}_discriminator")) for name, critic in critics.items()}
    truth, mask = 2 * picture(256, 256, batch=2) - 1, torch.ones(2, 1, 256, 256, dtype=torch.float64)
    mask[:, :, 48:160, 76:196] = 0
    stages = generator(truth * mask, 1 - mask)
    box = torch.tensor([[40, 72]] * 2)
    composites = [losses.composite(stage, truth, mask) for stage in stages]
    assert_as_recorded(composites[1], recorded["composite"])
    discount = ca_loss.spatial_discount(128, like=truth)
    patches = [crops(composite, box, 128) for composite in composites]
    truth_patch = crops(truth, box, 128)
    l1 = [ca_loss.discounted_l1_loss(patch, truth_patch, discount, global_batch=2) for patch in patches]
    known = [
        ca_loss.known_loss(stage, truth, mask, form="released", valid_ratio=mask.mean(), global_batch=2)
        for stage in stages
    ]
    pairs = {"local": (truth_patch, patches[1]), "global": (truth, composites[1])}
    values = [ca_loss.generator_loss(critics[name](fake), global_batch=2) for name, (_, fake) in pairs.items()]
    terms = {
        "l1": ca_loss.COARSE * l1[0] + l1[1],
        "known": ca_loss.COARSE * known[0] + known[1],
        "adversarial": values[0] + values[1],
    }
    total = weighted(terms, ca_loss.WEIGHTS)
    share = torch.tensor([0.3, 0.8], dtype=torch.float64)
    own, penalty = {}, {}
    for name, (real, fake) in pairs.items():
        own[name] = ca_loss.critic_loss(critics[name](real), critics[name](fake.detach()), global_batch=2)
        penalty[name] = ca_loss.gradient_penalty(critics[name], real, fake, share, global_batch=2)
    wgan_d, wgan_gp = own["local"] + own["global"], penalty["local"] + penalty["global"]
    found = {"l1": terms["l1"], "ae": terms["known"], "wgan_g": terms["adversarial"], "generator": total}
    found |= {"wgan_d": wgan_d, "wgan_gp": wgan_gp, "discriminator": wgan_d + ca_loss.PENALTY * wgan_gp}
    yield from compared(recorded["losses"], found)
    yield from gradients(total, generator, keys, recorded["gradients"]["generator"])
    for name, critic in critics.items():
        loss = own[name] + ca_loss.PENALTY * penalty[name]
        yield from gradients(loss, critic, d_keys[name], recorded["gradients"][f"{name}_discriminator"])
        alone = recorded["gradients"][f"{name}_discriminator_penalty_alone"]
        # Recorded with its weight.
        yield from gradients(ca_loss.PENALTY * penalty[name], critic, d_keys[name], alone)


STEPS: dict[str, Callable[[], Iterator[Check]]] = {
    "step_aotgan": aot_gan_step,
    "step_edgeconnect_edge_nsgan": lambda: edge_step("nsgan"),
    "step_edgeconnect_edge_hinge": lambda: edge_step("hinge"),
    "step_edgeconnect_edge_lsgan": lambda: edge_step("lsgan"),
    "step_edgeconnect_inpaint": lambda: inpaint_step(2),
    "step_edgeconnect_stage3": lambda: inpaint_step(3),
    "step_pconv_paper_train": lambda: pconv_step("paper", "train"),
    "step_pconv_paper_finetune": lambda: pconv_step("paper", "finetune"),
    "step_pconv_released_train": lambda: pconv_step("released", "train"),
    "step_pconv_released_finetune": lambda: pconv_step("released", "finetune"),
    "step_lama": lambda: lama_step("eval"),
    "step_lama_resnet_in_train_mode": lambda: lama_step("train"),
    "step_glcic": glcic_step,
    "step_ca": ca_step,
}


def recorded_numbers(recorded: dict[str, Any]) -> int:
    """Losses and norms that a file has."""
    norms = [1 + len(group.get("by_tensor", {})) for group in recorded.get("gradients", {}).values()]
    return len(recorded["losses"]) + len(recorded.get("losses_by_the_paper", {})) + sum(norms)


def relative(check: Check, scale: float) -> float:
    # Gradients that are 0 but for rounding, such as of a bias before a norm, are held against the largest number.
    _, measured, wanted = check
    return abs(measured - wanted) / max(abs(wanted), 1e-6 * scale)


@pytest.mark.nightly
def test_every_term_and_gradient_of_every_step_is_as_recorded() -> None:
    count, largest, worst = 0, 0.0, ""
    for name, step in STEPS.items():
        recorded, checks = expected(name), list(step())
        assert len(checks) == recorded_numbers(recorded), name
        scale = max(abs(wanted) for _, _, wanted in checks)
        for check in checks:
            difference = relative(check, scale)
            assert math.isfinite(difference), (name, check)
            if difference > largest:
                largest, worst = difference, f"{check[0]} of {name}"
        count += len(checks)
    print(f"{count} checks, largest relative difference {largest:.1e} ({worst})")
    assert count == 1398
    assert largest < 1e-9, worst
