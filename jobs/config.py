"""Configuration of a run, of ISNet or another task.

ISNet extends the settings of any run. Defaults are the paper's; where paper and released code disagree,
docs/decisions.md says which one we follow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from jobs.presets import layer_names, preset_names, preset_tree
from trainplane.command_line import command_line
from trainplane.config.hints import meant, typed
from trainplane.config.load import build
from trainplane.config.overrides import apply_overrides
from trainplane.config.schema import settings
from trainplane.config.section import Section, about
from trainplane.errors import UserError
from trainplane.train.config import TrainConfig
from trainplane.train.run_config import DataConfig, RunConfig

TASK = "jobs.isnet_task:ISNetTask"
# A picture's sides are multiples of this, as `isnet.generator` says too, whose import would take seconds.
SIZE_MULTIPLES = {"isnet": 16, "base": 8, "base_ff": 16, "unet_like": 8}
MINIMUM_SIZE = 32
# Layers of VGG19, as `isnet.perceptual` names them.
VggLayer = Literal[
    "relu1_1", "relu1_2", "relu2_1", "relu2_2", "relu3_1", "relu3_2", "relu3_3", "relu3_4",
    "relu4_1", "relu4_2", "relu4_3", "relu4_4", "relu5_1", "relu5_2", "relu5_3", "relu5_4",
]  # fmt: skip


class ModelConfig(Section):
    """Architecture of generator and discriminator."""

    name: Literal["isnet", "base", "base_ff", "unet_like"] = Field("isnet", description="generator (Table 1)")
    blocks: int = Field(
        4,
        ge=1,
        le=4,
        description="residual blocks per stage and branch (Table 2)",
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

    @model_validator(mode="after")
    def _options_fit_the_generator(self) -> ModelConfig:
        for option, only in (("skips", "unet_like"), ("prune", "base")):
            if getattr(self, option) and self.name != only:
                raise ValueError(
                    f"model.{option}=true is for model.name={only}, and model.name is {self.name}; "
                    f"set model.{option}=false, or model.name={only}"
                )
        return self


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
        None, description="VGG19: a file, a timm hub id such as timm/vgg19.tv_in1k, or 'random' on purpose"
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
        from isnet.perceptual import HUB_ID

        return self.perceptual_weights in (HUB_ID, HUB_ID.removeprefix("timm/")) and bool(self.perceptual or self.style)

    def check_files(self) -> None:
        """Raises `UserError` where the file of VGG19's weights is missing."""
        from isnet.perceptual import HUB_ID, RANDOM

        # Nothing to check for random weights, the hub, and losses that are off.
        weights = self.perceptual_weights
        if weights in (None, RANDOM) or self.needs_hub or not (self.perceptual or self.style):
            return
        if not Path(str(weights)).is_file():
            raise UserError(
                f"no VGG19 weights at loss.perceptual_weights={weights!r}; "
                f"give a .safetensors or .pth file, {HUB_ID}, or 'random' on purpose"
            )


class ISNetDataConfig(DataConfig):
    """Crops of the photos, and their holes."""

    size: int = Field(
        256,
        ge=MINIMUM_SIZE,
        description="side of the training crop, a multiple of 16 (of 8 for base and unet_like)",
        json_schema_extra=about(unit="px", also=["image_size", "img_size", "crop", "crop_size", "resolution"]),
    )
    resize: int | None = Field(
        None,
        ge=16,
        description="shorter side before a random crop; null: the paper's centre square, resized",
        json_schema_extra=about(unit="px"),
    )
    flip: bool = Field(True, description="mirror every other picture")
    masks: str = Field(
        "irregular",
        description="holes: a generator (irregular, thin, medium, thick, box, half) or a packed dataset of masks",
    )
    masks_digest: str | None = Field(None, description="digest of that dataset; filled in when the run starts")
    val_masks: str | None = Field(None, description="holes of held-out pictures; default: as `masks`")
    val_masks_digest: str | None = Field(None, description="of that dataset; filled in when the run starts")

    @field_validator("resize")
    @classmethod
    def _crop_fits(cls, resize: int | None, info: Any) -> int | None:
        size = info.data.get("size")
        if resize is not None and size is not None and resize < size:
            raise ValueError(
                f"data.resize={resize} is smaller than the crop data.size={size}; set it to at least {size}"
            )
        return resize

    @property
    def evaluation_masks(self) -> str:
        """Holes of held-out pictures."""
        return self.val_masks or self.masks

    @property
    def evaluation_size(self) -> int:
        """Side of the centre square of held-out pictures, pixels."""
        # As in training: at another size a network sees other proportions of border to picture (docs/LOG.md).
        return self.size


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
    betas: tuple[Beta, Beta] = Field((0.0, 0.9), description="Adam's betas of both players")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="arithmetic of the forward and backward passes",
        json_schema_extra=about(also=["dtype"], related=["amp", "mixed_precision", "bf16", "fp16"]),
    )
    compile: bool = Field(False, description="torch.compile the networks")
    channels_last: bool = Field(False, description="NHWC memory format")
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

    @model_validator(mode="after")
    def _network_takes_the_size(self) -> ISNetConfig:
        size, multiple = self.data.size, SIZE_MULTIPLES[self.model.name]
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
