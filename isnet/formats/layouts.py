"""Names of networks' layers in released checkpoints.

A layout is recognised by the name of one tensor. It gives the options of our network, from the shapes of the tensors,
and for each of our layers the released name. Not covered: ISNet's own release (`isnet.formats.author`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from isnet.methods.aot_gan.networks import discriminator as aot_gan_discriminator
from isnet.methods.ca.networks import Critic
from isnet.methods.glcic.networks import ContextDiscriminator
from isnet.methods.lama.networks import LamaDiscriminator
from isnet.methods.patch_discriminator import PatchDiscriminator

Shapes = Mapping[str, tuple[int, ...]]
Names = dict[str, str]
"""Our layer -> the released one."""


@dataclass(frozen=True)
class ReleasedLayout:
    """One released file's way of naming one network.

    Attributes:
        method: Of `isnet.methods.NAMES`.
        network: Name of the network in the method's training step.
        marks: Names of tensors that together only this layout has.
        options: Options of the network from the shapes; of a generator, those of `isnet.build`.
        names: Layers of the network with these options.
        part: First name of these layers in a generator of two networks, or that of the only one.
        ignored: Names of the file's other tensors (a pattern).
        build: Builds a discriminator from its options; None for a generator.
        scale: True where a kernel counts `numel / shape[0]` times as much as ours (PConv).
    """

    method: str
    network: str
    marks: tuple[str, ...]
    options: Callable[[Shapes], dict[str, Any]]
    names: Callable[[dict[str, Any]], Names]
    part: str = ""
    ignored: str = "(?!)"
    build: Callable[..., nn.Module] | None = None
    scale: bool = False


def _count(shapes: Shapes, pattern: str) -> int:
    return len({match[1] for name in shapes if (match := re.match(pattern, name))})


def _rows(shapes: Shapes, name: str, dim: int = 0) -> int:
    # A layout is recognised before its shapes are read, so a damaged one may have any.
    shape = shapes.get(name, ())
    return shape[dim] if len(shape) > dim else 0


# EdgeConnect: two generators, and a discriminator for each.


def _edgeconnect(weight: str) -> Callable[[Shapes], dict[str, Any]]:
    def options(shapes: Shapes) -> dict[str, Any]:
        blocks = _count(shapes, r"middle\.(\d+)\.conv_block\.1\.")
        return {"width": _rows(shapes, f"encoder.1.{weight}"), "blocks": blocks}

    return options


def _edgeconnect_names(options: dict[str, Any]) -> Names:
    names = {f"encoder.{i}": f"encoder.{1 + 3 * i}" for i in range(3)}
    for i in range(options["blocks"]):
        names |= {f"middle.{i}.dilated": f"middle.{i}.conv_block.1", f"middle.{i}.plain": f"middle.{i}.conv_block.5"}
    return names | {"decoder.0": "decoder.0", "decoder.1": "decoder.3", "decoder.2": "decoder.7"}


def _patch_options(shapes: Shapes) -> dict[str, Any]:
    first = "features.0.weight_orig"
    return {"width": _rows(shapes, first), "channels_in": _rows(shapes, first, 1)}


def _patch_names(_: dict[str, Any]) -> Names:
    return {"convs.0": "features.0", **{f"convs.{i}": f"conv{i + 1}.0" for i in range(1, 5)}}


# PConv


def _pconv(shapes: Shapes) -> dict[str, Any]:
    return {
        "width": _rows(shapes, "enc_1.conv.input_conv.weight"),
        "levels": _count(shapes, r"enc_(\d+)\.conv\.input_conv\."),
    }


def _pconv_names(options: dict[str, Any]) -> Names:
    levels = options["levels"]
    names = {"encoder.0.conv.conv": "enc_1.conv.input_conv"}
    for i in range(1, levels):
        names |= {f"encoder.{i}.conv.conv": f"enc_{i + 1}.conv.input_conv", f"encoder.{i}.bn": f"enc_{i + 1}.bn"}
    for i in range(levels - 1):
        level = levels - i
        names |= {f"decoder.{i}.conv.conv": f"dec_{level}.conv.input_conv", f"decoder.{i}.bn": f"dec_{level}.bn"}
    return names | {f"decoder.{levels - 1}.conv": "dec_1.conv.input_conv"}


# GLCIC


def _glcic_names(_: dict[str, Any]) -> Names:
    names: Names = {}
    for i in range(16):
        conv = "deconv" if i in (12, 14) else "conv"
        names |= {f"layers.{i}.0": f"{conv}{i + 1}", f"layers.{i}.2": f"bn{i + 1}"}
    return names | {"last": "conv17"}


def _context(shapes: Shapes) -> dict[str, Any]:
    width = _rows(shapes, "model_ld.conv1.weight")
    layers = _count(shapes, r"model_gd\.conv(\d+)\.")

    def side(linear: str, halvings: int) -> int:
        return math.isqrt(_rows(shapes, linear, 1) // max(1, 8 * width)) << halvings

    whole = side(f"model_gd.linear{layers + 1}.weight", layers)
    return {"width": width, "size": whole, "crop": side("model_ld.linear6.weight", 5)}


def _context_names(options: dict[str, Any]) -> Names:
    names = {"last": "linear1"}
    for ours, theirs, layers in (("local", "model_ld", 5), ("whole", "model_gd", 6 if options["size"] >= 256 else 5)):
        for i in range(layers):
            names |= {f"{ours}.layers.{i}.0": f"{theirs}.conv{i + 1}", f"{ours}.layers.{i}.2": f"{theirs}.bn{i + 1}"}
        names[f"{ours}.linear"] = f"{theirs}.linear{layers + 1}"
    return names


# CA


def _encoder(prefix: str, names: tuple[str, ...]) -> list[str]:
    return [f"{prefix}{name}.conv" for name in names]


def _ca_names(_: dict[str, Any]) -> Names:
    first = ("conv1", "conv2_downsample", "conv3", "conv4_downsample", "conv5", "conv6")
    dilated = tuple(f"conv{i}_atrous" for i in range(7, 11))
    lists = {
        "coarse.layers": _encoder("coarse_generator.", (*first, *dilated)),
        "coarse.decoder.layers": _encoder("coarse_generator.", tuple(f"conv{i}" for i in range(11, 18))),
        "refine.dilated": _encoder("fine_generator.", (*first, *dilated)),
        "refine.matching": _encoder("fine_generator.pm", first),
        "refine.after": _encoder("fine_generator.pm", ("conv9", "conv10")),
        "refine.decoder.layers": _encoder("fine_generator.all", tuple(f"conv{i}" for i in range(11, 18))),
    }
    return {f"{ours}.{i}": theirs for ours, names in lists.items() for i, theirs in enumerate(names)}


def _critics(shapes: Shapes) -> dict[str, Any]:
    width = _rows(shapes, "globalD.dis_conv_module.conv1.conv.weight")

    def side(name: str) -> tuple[int, int]:
        channels = _rows(shapes, f"{name}.dis_conv_module.conv4.conv.weight")
        return 16 * math.isqrt(_rows(shapes, f"{name}.linear.weight", 1) // max(1, channels)), channels

    (crop, last), (size, _) = side("localD"), side("globalD")
    return {"width": width, "size": size, "crop": crop, "last": last // max(1, width)}


def build_critics(*, width: int, size: int, crop: int, last: int) -> nn.Module:
    """Builds CA's two critics as its training step holds them."""
    return nn.ModuleDict({"local": Critic(size=crop, width=width, last=last), "whole": Critic(size=size, width=width)})


def _critic_names(_: dict[str, Any]) -> Names:
    names: Names = {}
    for ours, theirs in (("local", "localD"), ("whole", "globalD")):
        names |= {f"{ours}.layers.{i}": f"{theirs}.dis_conv_module.conv{i + 1}.conv" for i in range(4)}
        names[f"{ours}.linear"] = f"{theirs}.linear"
    return names


# LaMa

_FOURIER = {
    "local_to_local": "ffc.convl2l",
    "local_to_far": "ffc.convl2g",
    "far_to_local": "ffc.convg2l",
    "far_to_far.reduce.0": "ffc.convg2g.conv1.0",
    "far_to_far.reduce.1": "ffc.convg2g.conv1.1",
    "far_to_far.fourier.conv": "ffc.convg2g.fu.conv_layer",
    "far_to_far.fourier.bn": "ffc.convg2g.fu.bn",
    "far_to_far.expand": "ffc.convg2g.conv2",
    "bn_local": "bn_l",
    "bn_far": "bn_g",
}


def _lama(shapes: Shapes) -> dict[str, Any]:
    return {
        "width": _rows(shapes, "generator.model.1.ffc.convl2l.weight"),
        "blocks": _count(shapes, r"generator\.model\.(\d+)\.conv1\."),
    }


def _lama_names(options: dict[str, Any]) -> Names:
    blocks = options["blocks"]
    layers = {"stem": "1", **{f"down.{i}": f"{i + 2}" for i in range(3)}}
    for i in range(blocks):
        layers |= {f"middle.{i}.first": f"{5 + i}.conv1", f"middle.{i}.second": f"{5 + i}.conv2"}
    names = {f"{ours}.{a}": f"{theirs}.{b}" for ours, theirs in layers.items() for a, b in _FOURIER.items()}
    # A layer without tensors that joins both groups stands between the blocks and the first doubling.
    after = 5 + blocks + 1
    for i in range(3):
        names |= {f"up.{i}.0": f"{after + 3 * i}", f"up.{i}.1": f"{after + 3 * i + 1}"}
    names["head"] = f"{after + 10}"
    return {ours: f"generator.model.{theirs}" for ours, theirs in names.items()}


def _lama_discriminator_names(_: dict[str, Any]) -> Names:
    names = {f"layers.{i}.{j}": f"discriminator.model{i}.{j}" for i in range(5) for j in range(2)}
    return names | {"last": "discriminator.model5.0"}


# AOT-GAN


def _aot(shapes: Shapes) -> dict[str, Any]:
    return {"width": _rows(shapes, "encoder.1.weight"), "blocks": _count(shapes, r"middle\.(\d+)\.fuse\.1\.")}


def _aot_names(options: dict[str, Any]) -> Names:
    names = {"encoder.0": "encoder.1", "encoder.1": "encoder.3", "encoder.2": "encoder.5"}
    for i in range(options["blocks"]):
        names |= {f"middle.{i}.branches.{j}": f"middle.{i}.block0{j}.1" for j in range(4)}
        names |= {f"middle.{i}.fuse": f"middle.{i}.fuse.1", f"middle.{i}.gate": f"middle.{i}.gate.1"}
    return names | {"decoder.0": "decoder.0.conv", "decoder.1": "decoder.2.conv", "decoder.2": "decoder.4"}


def _aot_discriminator_names(_: dict[str, Any]) -> Names:
    return {f"convs.{i}": f"conv.{2 * i}" for i in range(5)}


def _of_width(name: str) -> Callable[[Shapes], dict[str, Any]]:
    return lambda shapes: {"width": _rows(shapes, name)}


_LAMA_REST = r"(loss_.*|val_evaluator|test_evaluator)\..*"

LAYOUTS = (
    ReleasedLayout(
        method="edgeconnect",
        network="generator",
        marks=("middle.0.conv_block.5.weight_orig", "decoder.7.weight"),
        options=_edgeconnect("weight_orig"),
        names=_edgeconnect_names,
        part="edge",
    ),
    ReleasedLayout(
        method="edgeconnect",
        network="generator",
        marks=("middle.0.conv_block.5.weight", "decoder.7.weight"),
        options=_edgeconnect("weight"),
        names=_edgeconnect_names,
        part="inpaint",
    ),
    ReleasedLayout(
        method="edgeconnect",
        network="discriminator",
        marks=("features.0.weight_orig", "conv5.0.weight_orig"),
        options=_patch_options,
        names=_patch_names,
        # The first convolution stands twice.
        ignored=r"conv1\.0\..*",
        build=PatchDiscriminator,
    ),
    ReleasedLayout(
        method="pconv",
        network="generator",
        marks=("enc_1.conv.input_conv.weight",),
        options=_pconv,
        names=_pconv_names,
        part="net",
        # Kernels of ones that the released code counts valid pixels with.
        ignored=r".*\.mask_conv\.weight",
        scale=True,
    ),
    ReleasedLayout(
        method="glcic",
        network="generator",
        marks=("deconv13.weight",),
        options=_of_width("conv1.weight"),
        names=_glcic_names,
        part="net",
    ),
    ReleasedLayout(
        method="glcic",
        network="discriminator",
        marks=("model_ld.conv1.weight",),
        options=_context,
        names=_context_names,
        build=ContextDiscriminator,
    ),
    ReleasedLayout(
        method="ca",
        network="generator",
        marks=("coarse_generator.conv1.conv.weight",),
        options=_of_width("coarse_generator.conv1.conv.weight"),
        names=_ca_names,
        part="net",
    ),
    ReleasedLayout(
        method="ca",
        network="discriminator",
        marks=("localD.linear.weight", "globalD.linear.weight"),
        options=_critics,
        names=_critic_names,
        build=build_critics,
    ),
    ReleasedLayout(
        method="lama",
        network="generator",
        marks=("generator.model.1.ffc.convl2l.weight",),
        options=_lama,
        names=_lama_names,
        part="net",
        ignored=rf"discriminator\..*|{_LAMA_REST}",
    ),
    ReleasedLayout(
        method="lama",
        network="discriminator",
        marks=("discriminator.model0.0.weight",),
        options=_of_width("discriminator.model0.0.weight"),
        names=_lama_discriminator_names,
        ignored=rf"generator\..*|{_LAMA_REST}",
        build=LamaDiscriminator,
    ),
    ReleasedLayout(
        method="aot_gan",
        network="generator",
        marks=("middle.0.block00.1.weight",),
        options=_aot,
        names=_aot_names,
        part="net",
    ),
    ReleasedLayout(
        method="aot_gan",
        network="discriminator",
        marks=("conv.0.weight_orig", "conv.8.weight"),
        options=_of_width("conv.0.weight_orig"),
        names=_aot_discriminator_names,
        build=aot_gan_discriminator,
    ),
)
