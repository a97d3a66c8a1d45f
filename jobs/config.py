"""Configuration of a run, of ISNet or another task.

ISNet extends the settings of any run. Defaults are the paper's; where paper and released code disagree,
docs/decisions.md says which one we follow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from jobs import method_rules
from jobs.data.settings import MINIMUM_SIZE, ISNetDataConfig
from jobs.presets import layer_names, preset_names, preset_tree
from trainplane.command_line import command_line
from trainplane.config.hints import meant, typed
from trainplane.config.load import build
from trainplane.config.overrides import apply_overrides
from trainplane.config.schema import settings
from trainplane.config.section import Section, about
from trainplane.errors import UserError
from trainplane.train.config import TrainConfig
from trainplane.train.run_config import RunConfig

TASK = "jobs.isnet_task:ISNetTask"
# A picture's sides are multiples of this, as `isnet.generator` says too, whose import would take seconds.
SIZE_MULTIPLES = {"isnet": 16, "base": 8, "base_ff": 16, "unet_like": 8}
# Repositories of VGG's weights on timm's hub.
HUB_NAMES = ("vgg19.tv_in1k", "vgg16.tv_in1k")
# Layers of VGG, as `isnet.perceptual` names them.
VggLayer = Literal[
    "relu1_1", "relu1_2", "relu2_1", "relu2_2", "relu3_1", "relu3_2", "relu3_3", "relu3_4",
    "relu4_1", "relu4_2", "relu4_3", "relu4_4", "relu5_1", "relu5_2", "relu5_3", "relu5_4",
    "pool1", "pool2", "pool3", "pool4", "pool5",
]  # fmt: skip


Share = Annotated[float, Field(ge=0, le=1)]


class ModelConfig(Section):
    """Architecture of generator and discriminator."""

    name: Literal["isnet", "base", "base_ff", "unet_like", "edgeconnect", "pconv", "glcic", "ca", "lama", "aot_gan"] = (
        Field("isnet", description="generator (Table 1), or another method (docs/methods.md)")
    )
    blocks: int = Field(
        4,
        ge=1,
        le=64,
        description="residual blocks per stage and branch, 1 to 4 (Table 2); of another method in all",
        json_schema_extra=about(unit="blocks", also=["depth", "num_blocks"]),
    )
    width: int = Field(
        32,
        ge=4,
        le=1024,
        multiple_of=4,
        description="channels of the full-resolution branch",
        json_schema_extra=about(unit="channels", also=["channels", "num_channels"]),
    )
    discriminator_width: int = Field(
        64,
        ge=4,
        le=1024,
        description="channels after the discriminator's first layer",
        json_schema_extra=about(unit="channels"),
    )
    activation: Literal["tanh", "leaky_relu"] | None = Field(None, description="default: the variant's own")
    mask_input: bool = Field(False, description="show the mask to the generator as a fourth channel")
    dilation: int = Field(
        2, ge=1, le=1024, description="dilation of residual blocks in the low-resolution branch (author's code)"
    )
    spectral_norm: Literal["released", "all", "none"] = Field(
        "released", description="layers: those of the author's code, every convolution (the paper's text), none"
    )
    skips: bool = Field(False, description="unet_like with skip connections, which the author's code lacks")
    prune: bool = Field(False, description="base without the 45 % of its weights that never get a gradient")
    init_std: float = Field(0.001, gt=0, description="standard deviation of initial weights (author's code)")
    init: Literal["normal", "kaiming"] = Field(
        "normal",
        description="initial weights of the generator: N(0, init_std), or by each layer's inputs",
        json_schema_extra=about(later=True),
    )
    coarse: Literal["none", "harmonic"] = Field(
        "none",
        description="harmonic: the generator adds to a smooth fill of the hole, which costs no training",
        json_schema_extra=about(later=True),
    )

    @model_validator(mode="after")
    def _options_fit_the_generator(self) -> ModelConfig:
        for option, only in (("skips", "unet_like"), ("prune", "base")):
            if getattr(self, option) and self.name != only:
                raise ValueError(
                    f"model.{option}=true is for model.name={only}, and model.name is {self.name}; "
                    f"set model.{option}=false, or model.name={only}"
                )
        if self.coarse != "none" and (self.name not in ("isnet", "base_ff") or self.spectral_norm != "none"):
            raise ValueError(
                f"model.coarse={self.coarse} needs model.name=isnet or base_ff and model.spectral_norm=none, and got "
                f"{self.name} and {self.spectral_norm}; set model.coarse=none, or those two"
            )
        return self


class MethodConfig(Section):
    """Settings of the methods beside ISNet (docs/methods.md)."""

    released: bool = Field(False, description="the released code's form where it differs from the corrected one")
    phases: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (),
        description="steps of each phase but the last: edgeconnect and glcic have 3 phases, pconv 2",
        json_schema_extra=about(unit="steps"),
    )
    phase_rates: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (), description="factor of the learning rates in each phase; none: 1"
    )
    levels: int = Field(7, ge=2, le=10, description="halvings of pconv; sides are multiples of 2^levels")
    sigma: float = Field(
        2.0, gt=0, description="smoothing before edgeconnect finds edges", json_schema_extra=about(unit="px")
    )
    mean_color: tuple[Share, Share, Share] | None = Field(
        None,
        description="R, G, B with which glcic fills holes; default: the mean of the training pictures",
    )
    order: Literal["relu_norm", "norm_relu"] = Field(
        "relu_norm", description="glcic: ReLU before BatchNorm (released weights), or behind it (paper)"
    )
    critic_steps: int = Field(5, ge=1, description="steps of ca's critics for one of its generator")


def _added_weight(of: str) -> Any:
    return Field(0.0, ge=0, description=f"weight of the {of}", json_schema_extra=about(later=True))


class LossConfig(Section):
    """Weights and inputs of the terms of Eq. 2."""

    l1: float = Field(1.0, ge=0, description="weight of the absolute difference of pixels")
    adversarial: float = Field(
        0.1,
        ge=0,
        description="weight of the discriminator's judgement",
        json_schema_extra=about(also=["gan_weight", "adv", "adv_weight"]),
    )
    perceptual: float = Field(0.1, ge=0, description="weight of the difference of VGG19's features")
    style: float = Field(250.0, ge=0, description="weight of the difference of Gram matrices of VGG19's features")
    feature_matching: float = Field(10.0, ge=0, description="weight of the difference of the discriminator's features")
    valid: float = _added_weight("difference of valid pixels (pconv)")
    hole: float = _added_weight("difference of pixels in the hole (pconv)")
    known: float = _added_weight("difference of valid pixels of both stages (ca)")
    total_variation: float = _added_weight("difference of neighbours in the hole (pconv)")
    gan: Literal["hinge", "nsgan", "lsgan"] = Field("hinge", description="adversarial loss; Eq. 3 is the hinge")
    d_sees: Literal["raw", "composite", "hole_only"] = Field("raw", description="fake input of the discriminator")
    l1_mode: Literal["hole_ratio", "per_sample", "plain"] = Field(
        "hole_ratio",
        description="L1 divided by the batch's mean hole ratio (author's code), by each own ratio, or plain",
    )
    min_hole_ratio: float = Field(0.01, gt=0, le=1, description="lower bound of the divisor of L1")
    style_hole_only: bool = Field(False, description="style loss inside the hole only (EdgeConnect); slower")
    normalise: bool = Field(False, description="ImageNet's mean and deviation before VGG19; the weights expect none")
    perceptual_weights: str | None = Field(
        None,
        description="VGG19: a file or its s3:// address, a timm hub id such as timm/vgg19.tv_in1k, or 'random'",
    )
    perceptual_digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = Field(
        None,
        description="sha256 that the file of loss.perceptual_weights must have; null: any",
        json_schema_extra=about(later=True),
    )
    perceptual_layers: tuple[VggLayer, ...] = Field(
        ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"),
        description="layers of VGG19 that the perceptual loss compares",
    )
    style_layers: tuple[VggLayer, ...] = Field(
        ("relu2_2", "relu3_4", "relu4_4", "relu5_2"), description="layers of VGG19 that the style loss compares"
    )

    @model_validator(mode="after")
    def _features_have_weights(self) -> LossConfig:
        if (self.perceptual or self.style) and self.perceptual_weights is None:
            raise ValueError(
                "loss.perceptual and loss.style compare features of VGG19, and loss.perceptual_weights is not set; "
                "give a file, timm/vgg19.tv_in1k, or 'random' on purpose, or set both weights to 0"
            )
        for term in ("perceptual", "style"):
            if getattr(self, term) and not getattr(self, f"{term}_layers"):
                raise ValueError(
                    f"loss.{term}={getattr(self, term)} and loss.{term}_layers=[]: there is nothing to compare; "
                    f"name layers, or set loss.{term}=0"
                )
        return self

    @property
    def needs_hub(self) -> bool:
        """True if VGG19's weights come from timm's hub."""
        return str(self.perceptual_weights).removeprefix("timm/") in HUB_NAMES and bool(self.perceptual or self.style)

    def check_files(self) -> None:
        """Raises `UserError` where the file of VGG19's weights is missing."""
        # Nothing to check for random weights, the hub, and losses that are off.
        weights = self.perceptual_weights
        if weights in (None, "random") or self.needs_hub or not (self.perceptual or self.style):
            return
        if str(weights).startswith("s3://"):
            from trainplane.storage import find_object

            find_object(str(weights))
        elif not Path(str(weights)).is_file():
            raise UserError(
                f"no VGG19 weights at loss.perceptual_weights={weights!r}; "
                f"give a .safetensors or .pth file, its s3:// address, timm/{HUB_NAMES[0]}, or 'random' on purpose"
            )


Beta = Annotated[float, Field(ge=0, lt=1)]


class ISNetTrainConfig(TrainConfig):
    """Settings of any training, and of the two optimisers."""

    lr_g: float = Field(
        1e-4,
        gt=0,
        description="learning rate of the generator",
        json_schema_extra=about(also=["lr", "learning_rate", "g_lr", "lr_generator"]),
    )
    lr_d: float = Field(
        1e-5,
        gt=0,
        description="learning rate of the discriminator",
        json_schema_extra=about(also=["d_lr", "lr_discriminator"]),
    )
    freeze: tuple[str, ...] = Field(
        (),
        description="parts that keep their weights, such as generator.stem; a path of parameters or its beginning, "
        "with * and ? as in a shell",
        json_schema_extra=about(also=["frozen", "freeze_layers"], later=True),
    )
    rate_factors: dict[str, Annotated[float, Field(gt=0)]] = Field(
        {},
        description="pattern, as in train.freeze: factor of the learning rate of that part; the last that fits counts",
        json_schema_extra=about(also=["lr_mult", "layer_lr"], later=True),
    )
    betas: tuple[Beta, Beta] = Field((0.0, 0.9), description="Adam's betas of both players")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="arithmetic of the forward and backward passes",
        json_schema_extra=about(also=["dtype"], related=["amp", "mixed_precision", "bf16", "fp16"]),
    )
    compile: bool = Field(False, description="torch.compile the networks")
    channels_last: bool = Field(False, description="NHWC memory format")
    recompute: bool = Field(
        False,
        description="compute activations of the generator's stages again in the backward pass: less memory, more time",
        json_schema_extra=about(later=True, also=["gradient_checkpointing", "activation_checkpointing"]),
    )
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="decay of the generator's moving average; null: off",
        json_schema_extra=about(also=["ema_decay"]),
    )


class ISNetConfig(RunConfig):
    """One ISNet run."""

    task: str = Field(TASK, description="model that is trained, as package.module:Class")
    data: ISNetDataConfig
    train: ISNetTrainConfig
    model: ModelConfig = ModelConfig()
    loss: LossConfig
    method: MethodConfig = Field(MethodConfig(), json_schema_extra=about(later=True))

    @model_validator(mode="after")
    def _settings_fit_the_method(self) -> ISNetConfig:
        if (fault := next(method_rules.faults(self), None)) is not None:
            raise ValueError(fault)
        return self

    @model_validator(mode="after")
    def _network_takes_the_size(self) -> ISNetConfig:
        size = self.data.size
        multiple = SIZE_MULTIPLES.get(self.model.name) or method_rules.size_multiple(self)
        if size % multiple:
            most = self.data.resize or 2 * size
            near = [size - size % multiple, size - size % multiple + multiple]
            fitting = [str(side) for side in near if MINIMUM_SIZE <= side <= most] or [str(near[1])]
            raise ValueError(
                f"data.size={size} is no multiple of {multiple}, which model.name={self.model.name} needs; "
                f"set data.size={' or '.join(fitting)}"
            )
        return self


def load_run_config(preset: str, overrides: Sequence[str]) -> RunConfig:
    """Builds a run's frozen configuration, of the preset's task.

    Args:
        preset: name or file, with layers.
        overrides: settings on top, such as `train.steps=200`.
    """
    tree = preset_tree(preset)
    # A search has no settings of its own run, only a base and a space.
    if "search" in tree:
        raise UserError(f"{preset!r} is a search; run it with `{command_line('tune', preset)}`")
    _check_words(preset, overrides)
    return build_run(tree, overrides)


def build_run(tree: Mapping[str, Any], overrides: Sequence[str]) -> RunConfig:
    """Builds a configuration from a tree and overrides."""
    schema = run_schema(tree, overrides)
    return build(schema, apply_overrides(tree, overrides, schema))


def load_isnet_config(preset: str, overrides: Sequence[str]) -> ISNetConfig:
    """Builds the configuration of an ISNet run."""
    config = load_run_config(preset, overrides)
    if not isinstance(config, ISNetConfig):
        raise UserError(f"{preset!r} trains {config.task}, and ISNet is needed here; give a preset without `task:`")
    return config


def meant_overrides(name: str, value: str, *, of_search: bool) -> list[str]:
    """Overrides that a name and a value may stand for.

    Args:
        name: of a setting, or similar to one.
        value: as it was typed.
        of_search: True where settings of a search are possible, too.
    """
    from trainplane.search.config import SearchFile

    declared = [*settings(ISNetConfig), *(settings(SearchFile) if of_search else [])]
    return [typed(setting, name, value) for setting in meant(declared, name)]


def run_schema(tree: Mapping[str, Any], overrides: Sequence[str] = ()) -> type[RunConfig]:
    """Configuration class of the task that a preset names."""
    named = [override.partition("=")[2] for override in overrides if override.startswith("task=")]
    task = str(named[-1] if named else tree.get("task", TASK))
    if task == TASK:
        return ISNetConfig
    # Another model's module is the user's, and imports torch.
    from trainplane.task import load_task

    return load_task(task).Config


def _check_words(preset: str, overrides: Sequence[str]) -> None:
    """Refuses a layer, or a second preset, among the overrides."""
    for word in overrides:
        if word.startswith("search."):
            raise UserError(
                f"{word!r} is a setting of a search, and {preset!r} is one run; searches: "
                f"`{command_line('tune', 'SEARCH')}`"
            )
        if word in layer_names():
            raise UserError(f"{word!r} is no override; a layer is joined to the preset's name: {preset}+{word}")
        if word in preset_names():
            raise UserError(f"{word!r} is a second preset; give one of them, then settings such as train.steps=200")
