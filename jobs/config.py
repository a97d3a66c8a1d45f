"""Configuration of an ISNet run: sections, presets and layers.

Extends the settings of any run. Defaults are the paper's; where paper and released code disagree, docs/decisions.md
says which one we follow.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from trainplane.config.load import apply_overrides, build, read_yaml
from trainplane.config.section import Section
from trainplane.errors import UserError, nearest
from trainplane.train.config import TrainConfig
from trainplane.train.run_config import DataConfig, RunConfig

PRESETS = Path(__file__).parent / "presets"
LAYERS = PRESETS / "layers"
TASK = "jobs.isnet_task:ISNetTask"


class ModelConfig(Section):
    """Architecture of generator and discriminator."""

    name: Literal["isnet", "base", "base_ff", "unet_like"] = Field("isnet", description="generator (Table 1)")
    blocks: int = Field(4, ge=1, le=4, description="residual blocks per stage and branch (Table 2)")
    width: int = Field(32, ge=4, multiple_of=4, description="channels of the full-resolution branch")
    discriminator_width: int = Field(64, ge=4, description="channels after the discriminator's first layer")
    activation: Literal["tanh", "leaky_relu"] | None = Field(None, description="default: the variant's own")
    mask_input: bool = Field(False, description="show the mask to the generator as a fourth channel")
    dilation: int = Field(
        2, ge=1, description="dilation of residual blocks in the low-resolution branch (author's code)"
    )
    spectral_norm: Literal["released", "all", "none"] = Field(
        "released", description="layers: those of the author's code, every convolution (the paper's text), none"
    )
    skips: bool = Field(False, description="unet_like with skip connections, which the author's code lacks")
    prune: bool = Field(False, description="base without the 45 % of its weights that never get a gradient")
    init_std: float = Field(0.001, gt=0, description="standard deviation of initial weights (author's code)")


class LossConfig(Section):
    """Weights and inputs of the terms of Eq. 2."""

    l1: float = Field(1.0, ge=0)
    adversarial: float = Field(0.1, ge=0)
    perceptual: float = Field(0.1, ge=0)
    style: float = Field(250.0, ge=0)
    feature_matching: float = Field(10.0, ge=0)
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
    perceptual_layers: tuple[str, ...] = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
    style_layers: tuple[str, ...] = ("relu2_2", "relu3_4", "relu4_4", "relu5_2")

    @model_validator(mode="after")
    def _features_have_weights(self) -> LossConfig:
        if (self.perceptual or self.style) and self.perceptual_weights is None:
            raise ValueError(
                "loss.perceptual and loss.style compare features of VGG19, and loss.perceptual_weights is not set; "
                "give a file, timm/vgg19.tv_in1k, or 'random' on purpose, or set both weights to 0"
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

    size: int = Field(256, ge=32, description="side of the training crop, pixels")
    resize: int | None = Field(
        None, ge=16, description="shorter side before a random crop; none: the paper's centre square, resized"
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

    lr_g: float = Field(1e-4, gt=0, description="learning rate of the generator")
    lr_d: float = Field(1e-5, gt=0, description="learning rate of the discriminator")
    betas: tuple[Beta, Beta] = Field((0.0, 0.9), description="Adam's betas of both players")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="arithmetic of the forward and backward passes")
    compile: bool = Field(False, description="torch.compile the networks")
    channels_last: bool = Field(False, description="NHWC memory format")
    ema: float | None = Field(None, gt=0, lt=1, description="decay of the generator's moving average; none: off")


class ISNetConfig(RunConfig):
    """One ISNet run."""

    task: str = TASK
    data: ISNetDataConfig
    train: ISNetTrainConfig
    model: ModelConfig = ModelConfig()
    loss: LossConfig


def preset_names(prefix: str = "") -> list[str]:
    """Names of shipped presets; those of searches begin with `search_`."""
    return sorted(path.stem for path in PRESETS.glob(f"{prefix}*.yaml"))


def layer_names() -> list[str]:
    """Names of shipped layers, for any preset: `places2+laptop`."""
    return sorted(path.stem for path in LAYERS.glob("*.yaml"))


def preset_tree(preset: str) -> dict[str, Any]:
    """Reads a name or file with layers, such as `my.yaml+laptop`.

    `base: PRESET` in a file puts that preset underneath. A search keeps its base, and the layers, as a name.
    """
    return _resolve(preset, [])


def _resolve(preset: str, parents: list[str]) -> dict[str, Any]:
    if preset in parents:
        raise UserError(f"preset {preset!r} is its own base ({' → '.join([*parents, preset])}); name another base")
    name, layers = _split_layers(preset)
    tree = _file_tree(name)
    # The base of a search is resolved when its trials are built.
    if "search" in tree:
        return {**tree, **({"base": "+".join([str(tree.get("base", "")), *layers])} if layers else {})}
    # Bottom up: base, the file itself, layers.
    if (base := tree.pop("base", None)) is not None:
        tree = merge(_resolve(str(base), [*parents, preset]), tree)
    for layer in layers:
        tree = merge(tree, read_yaml(LAYERS / f"{layer}.yaml")) | {"name": f"{tree.get('name', '')}-{layer}"}
    return tree


def _split_layers(preset: str) -> tuple[str, list[str]]:
    """Splits a preset into name or file, and layers."""
    # A file name may contain a plus sign itself.
    name, *layers = preset.split("+")
    if not layers or Path(preset).is_file():
        return preset, []
    for layer in layers:
        if layer not in layer_names():
            raise UserError(f"no layer {layer!r} to put on {name!r}{nearest(layer, layer_names())}; try {name}+laptop")
    return name, layers


def _file_tree(name: str) -> dict[str, Any]:
    shipped = PRESETS / f"{name}.yaml"
    # Shipped names win; everything that looks like a path is a file.
    if shipped.is_file():
        return read_yaml(shipped)
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return read_yaml(Path(name).expanduser())
    if name in layer_names():
        raise UserError(f"{name!r} is a layer, it goes on top of a preset; try demo+{name} or places2+{name}")
    raise UserError(f"no preset {name!r}{nearest(name, preset_names())}; or give a YAML file")


def load_run_config(preset: str, overrides: list[str]) -> ISNetConfig:
    """Builds a run's frozen configuration; overrides like `train.steps=200`."""
    tree = preset_tree(preset)
    # A search has no settings of its own run, only a base and a space.
    if "search" in tree:
        raise UserError(f"{preset!r} is a search; run it with `isnet tune {preset}`")
    return build(ISNetConfig, apply_overrides(tree, overrides))


def merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Merges `over` into `under`, section by section."""
    result = dict(under)
    for key, value in over.items():
        is_section = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merge(result[key], value) if is_section else value
    return result
