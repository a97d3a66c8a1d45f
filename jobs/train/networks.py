"""Builds the networks under training that a configuration describes."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

import isnet
from isnet.errors import InputError
from isnet.gan import GAN, GanSettings
from isnet.losses import LossWeights
from isnet.methods.architecture import MethodGenerator
from isnet.methods.method import MethodSettings, build_method
from isnet.perceptual import Perceptual
from isnet.training.players import Players
from jobs.config import ISNetConfig
from jobs.method_rules import RULES
from trainplane.config.section import without_later_defaults
from trainplane.storage import host_copy

if TYPE_CHECKING:
    from isnet.methods.lama.resnet import DilatedResNet


def build_players(config: ISNetConfig, device: torch.device) -> Players:
    """Builds networks and losses; torch's global generator initialises weights."""
    model = config.model
    generator = isnet.build(model.name, **generator_options(config))
    # The network behind a perceptual loss is built only where a loss needs it.
    perceptual = build_perceptual(config) if config.loss.perceptual or config.loss.style else None
    if model.name in RULES:
        settings = method_settings(config)
        return build_method(cast("MethodGenerator", generator), settings, perceptual=perceptual, device=device)
    discriminator = isnet.build(
        "discriminator",
        width=model.discriminator_width,
        init_std=model.init_std,
        spectral=model.spectral_norm != "none",
    )
    assert perceptual is None or isinstance(perceptual, Perceptual)
    return GAN(generator, discriminator, gan_settings(config), perceptual=perceptual, device=device)


def build_perceptual(config: ISNetConfig) -> nn.Module:
    """Builds the perceptual loss's network; errors name the setting."""
    loss, rules = config.loss, RULES.get(config.model.name)
    assert loss.perceptual_weights is not None, "refused by LossConfig"
    network = rules.features if rules is not None else "vgg19"
    weights = loss.perceptual_weights
    file = str(host_copy(weights)) if weights.startswith("s3://") else weights
    try:
        features: Perceptual | DilatedResNet
        if network == "resnet50":
            from isnet.methods.lama.resnet import DilatedResNet

            features = DilatedResNet(file)
        else:
            features = Perceptual(
                file,
                network=network or "vgg19",
                perceptual_layers=loss.perceptual_layers,
                style_layers=loss.style_layers,
                normalise=loss.normalise,
            )
    except InputError as error:
        raise InputError(f"loss.perceptual_weights={weights}: {error}") from error
    if loss.perceptual_digest is not None and not features.source.endswith(f"sha256 {loss.perceptual_digest}"):
        raise InputError(
            f"loss.perceptual_digest={loss.perceptual_digest} is not the digest of loss.perceptual_weights={weights} "
            f"({features.source}); give that file, or its own digest"
        )
    return features


def gan_settings(config: ISNetConfig) -> GanSettings:
    """Collects the settings of ISNet's step."""
    # Fields of the dataclasses and of the sections have the same names.
    weights, settings = ({field.name for field in fields(kind)} for kind in (LossWeights, GanSettings))
    return GanSettings(
        loss=LossWeights(**config.loss.model_dump(include=weights)),
        **config.loss.model_dump(include=settings),
        **config.train.model_dump(include=settings),
    )


def method_settings(config: ISNetConfig) -> MethodSettings:
    """Collects the settings of another method's step."""
    names = {field.name for field in fields(MethodSettings)}
    sections = (config.loss, config.train, config.method)
    values: dict[str, Any] = {}
    for section in sections:
        values |= section.model_dump(include=names)
    return MethodSettings(
        loss={term: getattr(config.loss, term) for term in RULES[config.model.name].terms},
        size=config.data.size,
        discriminator_width=config.model.discriminator_width,
        **values,
    )


def generator_options(config: ISNetConfig) -> dict[str, Any]:
    """Collects `isnet.build`'s arguments except the generator's name."""
    model, method = config.model, config.method
    if model.name in RULES:
        of_method: dict[str, dict[str, Any]] = {
            "edgeconnect": {"blocks": model.blocks, "sigma": method.sigma, "released": method.released},
            "pconv": {"levels": method.levels, "released": method.released},
            # A training has one (`jobs.data.mean_color`); of a network that learns nothing it decides nothing.
            "glcic": {"order": method.order, "mean_color": method.mean_color or (0.5, 0.5, 0.5)},
            "ca": {},
            "lama": {"blocks": model.blocks},
            "aot_gan": {"blocks": model.blocks},
        }
        return {"width": model.width, **of_method[model.name]}
    same = {"blocks", "width", "init_std", "init", "coarse", "dilation", "spectral_norm", "skips", "prune"}
    # Packages of before the later options have a configuration without them.
    values = without_later_defaults(model)
    options = {name: values[name] for name in same & values.keys()} | {"in_channels": 4 if model.mask_input else 3}
    return options | ({"activation": model.activation} if model.activation else {})
