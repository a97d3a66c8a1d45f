"""Rules of the other methods for a configuration.

The same as their networks say, whose import would take seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from trainplane.command_line import command_line

if TYPE_CHECKING:
    from jobs.config import ISNetConfig

ISNET_TERMS = frozenset({"l1", "adversarial", "perceptual", "style", "feature_matching"})
TERMS = ISNET_TERMS | {"valid", "hole", "known", "total_variation"}
# Settings of section `loss` that are ISNet's alone.
_ISNET_LOSS = ("gan", "d_sees", "l1_mode", "style_hole_only")
# Settings of section `model` that every method has.
_COMMON = {"name", "blocks", "width", "discriminator_width"}


@dataclass(frozen=True)
class MethodRules:
    """Facts about one method."""

    terms: frozenset[str]  # weights of section `loss` that it reads
    multiple: int  # sides of a training picture are multiples of this
    smallest: int = 32  # side of a training picture, pixels
    phases: int = 1
    batch_norm: bool = False  # its steps need all samples of a rank in one pass
    float32: str = ""  # why bf16 is refused; empty: it is not
    extra: Literal["edges", "draws"] | None = None  # what its samples have beside picture and mask
    features: Literal["vgg19", "vgg16", "resnet50"] | None = None  # network of its perceptual loss
    loss_options: frozenset[str] = frozenset()  # further settings of section `loss` that it reads


RULES = {
    "edgeconnect": MethodRules(
        ISNET_TERMS, multiple=4, phases=3, extra="edges", features="vgg19", loss_options=frozenset({"gan"})
    ),
    "pconv": MethodRules(
        frozenset({"valid", "hole", "perceptual", "style", "total_variation"}),
        multiple=128,
        phases=2,
        batch_norm=True,
        float32="counts of valid pixels need float32",
        features="vgg16",
    ),
    "glcic": MethodRules(frozenset({"adversarial"}), multiple=32, phases=3, batch_norm=True, extra="draws"),
    "ca": MethodRules(
        frozenset({"l1", "known", "adversarial"}),
        multiple=32,
        float32="gradients of its critics' gradients need float32",
        extra="draws",
    ),
    "lama": MethodRules(
        frozenset({"l1", "adversarial", "feature_matching", "perceptual"}),
        multiple=8,
        batch_norm=True,
        float32="Fourier transforms and gradients of its discriminator's gradients need float32",
        features="resnet50",
    ),
    "aot_gan": MethodRules(
        frozenset({"l1", "adversarial", "perceptual", "style"}), multiple=4, smallest=36, features="vgg19"
    ),
}


def size_multiple(config: ISNetConfig) -> int:
    """Divisor of a training picture's side."""
    name, rules = config.model.name, RULES[config.model.name]
    if name == "pconv":
        return 1 << config.method.levels
    # The discriminator halves pictures from 256 pixels once more.
    return 64 if name == "glcic" and config.data.size >= 256 else rules.multiple


def faults(config: ISNetConfig) -> Iterator[str]:
    """Sentences about settings that do not fit `model.name`."""
    name = config.model.name
    rules = RULES.get(name)
    terms = rules.terms if rules is not None else ISNET_TERMS
    for term in sorted(TERMS - terms):
        if getattr(config.loss, term):
            start = f", or start from `{command_line('train', name)}`" if rules is not None else ""
            yield (
                f"model.name={name} has no term {term}, and loss.{term}={getattr(config.loss, term):g}; "
                f"set loss.{term}=0{start}"
            )
    if config.train.recompute and (name not in ("isnet", "base", "base_ff") or config.train.compile):
        yield (
            f"train.recompute=true is for model.name=isnet, base and base_ff without train.compile, and got {name}"
            f"{' with it' if config.train.compile else ''}; set train.recompute=false, or a smaller train.micro_batch"
        )
    if rules is None:
        if config.method != type(config.method)():
            yield f"section `method` is for other methods than model.name={name}; leave it out"
        if config.model.blocks > 4:
            yield f"model.blocks={config.model.blocks}, and model.name={name} takes 1 to 4; set model.blocks=4"
        return
    yield from _method_faults(config, name, rules)


def _method_faults(config: ISNetConfig, name: str, rules: MethodRules) -> Iterator[str]:
    fields = type(config.model).model_fields
    for option in sorted(set(fields) - _COMMON):
        if (value := getattr(config.model, option)) != fields[option].default:
            yield f"model.{option}={value} is not for model.name={name}; leave it out"
    loss_fields = type(config.loss).model_fields
    for option in (option for option in _ISNET_LOSS if option not in rules.loss_options):
        if (value := getattr(config.loss, option)) != loss_fields[option].default:
            yield f"loss.{option}={value} is not for model.name={name}, whose own form is fixed; leave it out"
    train, method, size = config.train, config.method, config.data.size
    if size < rules.smallest:
        yield f"data.size={size}, and model.name={name} needs at least {rules.smallest}; set data.size=64"
    if rules.float32 and train.precision != "fp32":
        yield f"train.precision={train.precision}, and model.name={name}: {rules.float32}; set train.precision=fp32"
    if train.compile:
        yield f"train.compile=true is for ISNet's own networks, and model.name is {name}; set train.compile=false"
    if rules.batch_norm and train.micro_batch is not None:
        yield (
            f"model.name={name} has BatchNorm, whose statistics are those of the whole batch: ranks share theirs, "
            f"micro-batches cannot, and train.micro_batch={train.micro_batch}; set train.micro_batch=null, and "
            "train.workers or train.global_batch if memory is short"
        )
    if rules.batch_norm and train.global_batch < 2:
        yield f"model.name={name} has BatchNorm, and train.global_batch=1; set train.global_batch=2 or more"
    if name == "ca" and config.data.masks not in ("box", "large_box"):
        yield (
            f"model.name=ca learns from one box a picture, and data.masks={config.data.masks}; set "
            "data.masks=large_box, or box (data.val_masks may be any)"
        )
    if len(method.phases) != rules.phases - 1:
        yield (
            f"model.name={name} has {rules.phases} phase{'s' * (rules.phases > 1)}, and method.phases="
            f"{list(method.phases)}; give the steps of each but the last: {rules.phases - 1} numbers"
        )
    if method.phase_rates and len(method.phase_rates) != rules.phases:
        yield (
            f"method.phase_rates={list(method.phase_rates)}, and model.name={name} has {rules.phases} "
            f"phase{'s' * (rules.phases > 1)}; give one factor for each, or leave it out"
        )
