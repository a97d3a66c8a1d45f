"""ISNet as a task of trainplane."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from importlib import metadata
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

import isnet
from isnet.errors import InputError
from isnet.gan import GAN, GanSettings
from isnet.generator import Generator
from isnet.images.crops import center_square, channels_first, flip, random_crop, resize_shorter_side
from isnet.images.decode import decode_rgb
from isnet.losses import LossWeights
from isnet.masks import RATIO_BINS, Hole, bin_range, irregular, valid_1HW
from isnet.metrics import MetricSums, composite, measure
from isnet.perceptual import Perceptual
from isnet.served import TRAINED
from isnet.spectral_norm import fold_spectral_norm
from isnet.weights import save_model
from jobs.config import ISNetConfig, LossConfig
from jobs.data.mask_datasets import MaskSet, cache_mask_set, hole_generator, pin_mask_sets
from jobs.train import compile_check
from trainplane.data.types import Batch, Sample
from trainplane.errors import RunFailed
from trainplane.task import Exported, GalleryImage, Reducer, Task, Validation
from trainplane.tracking.images import strip
from trainplane.tracking.tracker import gallery_key
from trainplane.train.guard.policy import Balance
from trainplane.train.run_config import RunConfig

# Bounds on D's loss (half of Eq. 3): a hundredth of the chance level, and a third above it. At the chance level D's
# logits are 0, and the loss is 1 for the hinge, log 2 for cross entropy, 1/4 for squares of sigmoids.
D_LOSS_BOUNDS = {"hinge": (0.01, 1.33), "nsgan": (0.007, 0.92), "lsgan": (0.0025, 0.33)}
# Metrics over all held-out pictures, and metrics by hole ratio.
OVERALL = ("psnr", "ssim", "l1_percent", "l1_hole")
BINNED = ("psnr", "ssim", "l1_percent")
# Suffixes of the picture among a sample's members, in order of preference.
PICTURE_MEMBERS = ("jpg", "png", "webp")
# Packages that a served model needs, pinned to the installed versions.
REQUIREMENTS = ("torch", "numpy", "pillow", "safetensors", "simplejpeg", "opencv-python-headless")


def picture_bytes(sample: Sample) -> bytes:
    """Returns the encoded picture among a sample's members."""
    for member in PICTURE_MEMBERS:
        if member in sample:
            return sample[member]
    names = ", ".join(sorted(name for name in sample if not name.startswith("__"))) or "none"
    raise InputError(f"no picture among its members ({names}); need KEY.jpg, .png or .webp; pack the photos again")


def fixed_hole(kind: str, size: int, index: int) -> Hole:
    """Returns the fixed hole of a held-out picture.

    Args:
        kind: generator of masks, or the address of a mask dataset.
        size: side of the picture in pixels.
        index: number of the picture in its dataset.

    Returns:
        bool (size, size), True in the hole.
    """
    draw = hole_generator(kind)
    if isinstance(draw, MaskSet):
        # The masks of a dataset are paired with pictures one to one.
        return draw.hole(index, size, size)
    # One random stream for each picture, so that its hole does not depend on the others.
    rng = np.random.Generator(np.random.Philox(key=[_VALIDATION_STREAM, index]))
    if kind == "irregular":
        # Bin `index` mod 6, so that a few pictures have all ratios.
        return irregular(size, size, rng, ratio=bin_range(RATIO_BINS[index % len(RATIO_BINS)]))
    return draw(size, size, rng)


@dataclass(frozen=True)
class TrainTransform:
    """Transform of a sample into a crop with a hole.

    All randomness comes from `rng`. Results become floats only in `ISNetTask.step`: a fifth of the bytes goes from
    process to process and to the device.
    """

    size: int  # side of the crop in pixels
    resize: int | None  # shorter side before the crop; None crops the centre of the picture
    flip: bool  # mirror half of the pictures
    masks: str  # generator of masks, or the address of a mask dataset

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Batch:
        """Returns `image` and `mask`.

        The image is uint8 (3, size, size); the mask is bool (1, size, size), True on valid pixels.
        """
        # A large picture is reduced while it is decoded.
        rgb = decode_rgb(picture_bytes(sample), shortest=self.resize or self.size)
        if self.resize is None:
            rgb = center_square(rgb, self.size)
        else:
            rgb = random_crop(resize_shorter_side(rgb, self.resize), self.size, rng)
        hole = hole_generator(self.masks)(self.size, self.size, rng)
        if self.flip and rng.random() < 0.5:
            rgb = flip(rgb)
        # Only the mask is rotated, by a random multiple of 90 degrees; the picture is not (ISNET.md §6).
        hole = np.rot90(hole, int(rng.integers(4)))
        return {"image": torch.from_numpy(channels_first(rgb)), "mask": torch.from_numpy(~hole[None])}


def _reduce_transform(transform: TrainTransform) -> tuple[Any, ...]:
    """Pickles a transform with its masks: workers need not read."""
    draw = hole_generator(transform.masks)
    return _restore_transform, (astuple(transform), draw if isinstance(draw, MaskSet) else None)


def _restore_transform(settings: tuple[Any, ...], masks: MaskSet | None) -> TrainTransform:
    if masks is not None:
        cache_mask_set(masks)
    return TrainTransform(*settings)


ForkingPickler.register(TrainTransform, _reduce_transform)


def validation_pair(index: int, sample: Sample, size: int, masks: str) -> tuple[Tensor, Tensor]:
    """Returns a held-out picture's centre square and its fixed hole.

    Returns:
        Image float32 (3, size, size) in [0, 1], and mask float32 (1, size, size), 1 on valid pixels.
    """
    try:
        rgb = center_square(decode_rgb(picture_bytes(sample), shortest=size), size)
    except InputError as error:
        # A held-out picture is never replaced by another one.
        key = sample["__key__"].decode("utf-8", "replace")
        raise RunFailed(
            f"held-out picture {key} (number {index}) cannot be read: {error}; repair it and pack data.val again"
        ) from error
    image = torch.from_numpy(channels_first(rgb)).float().div_(255)
    return image, torch.from_numpy(valid_1HW(fixed_hole(masks, size, index)))


# Key of the random stream of validation's holes.
_VALIDATION_STREAM = int.from_bytes(hashlib.sha256(b"isnet validation masks").digest()[:8])


class ISNetTask(Task):
    """G, D, their optimisers and the losses of one configuration."""

    Config: ClassVar[type[RunConfig]] = ISNetConfig

    def __init__(self, config: Any, device: torch.device) -> None:
        """Builds the networks; weights come from torch's global generator."""
        super().__init__(config, device)
        # Mask datasets must have the digests of the configuration.
        pin_mask_sets(config)
        self.gan = build_gan(config, device)

    def modules(self) -> dict[str, nn.Module]:
        """Returns G, D and the moving average of G."""
        return self.gan.modules()

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Returns the optimisers of G and D."""
        return cast("dict[str, torch.optim.Optimizer]", self.gan.optimizers())

    @classmethod
    def transform_of(cls, config: Any) -> TrainTransform:
        """Returns the transform of training samples."""
        pin_mask_sets(config)
        data = config.data
        return TrainTransform(data.size, data.resize, data.flip, data.masks)

    def self_check(self, micro_batch: Batch, *, reduce: Reducer) -> str | None:
        """Compares compiled networks with eager ones."""
        return compile_check.check(self.gan, *_pair(micro_batch), reduce=reduce) if self.config.train.compile else None

    def step(self, micro_batches: Sequence[Batch], *, global_batch: int, reduce: Reducer) -> dict[str, Tensor]:
        """Runs one global step of both networks."""
        pairs = [_pair(batch) for batch in micro_batches]
        return self.gan.step(pairs, global_batch=global_batch, reduce=reduce)

    def balance(self) -> dict[str, Balance]:
        """Returns bounds on D's loss."""
        if not self.gan.settings.loss.needs_discriminator:
            return {}
        # Near 0, D overpowers G; above the chance level, D has collapsed.
        low, high = D_LOSS_BOUNDS[self.gan.settings.gan]
        bounds = Balance(
            low,
            high,
            below="D overpowers G, and G learns nothing from it",
            above="D has collapsed: its loss is above the chance level",
            slows_below="discriminator",
            slows_above="generator",
        )
        return {"discriminator": bounds}

    def timings(self) -> dict[str, float]:
        """Returns seconds by part of the step."""
        return self.gan.timer.seconds()

    @torch.no_grad()
    def validate(self, samples: Sequence[tuple[int, Sample]], *, reduce: Reducer, gallery: Sequence[int]) -> Validation:
        """Measures definition `isnet` on composites, overall and by hole ratio."""
        # Spectral norm is folded into the weights once, not once a picture.
        network = fold_spectral_norm(self.gan.eval_generator()).eval()
        tally, pictures = MetricSums.empty(), []
        for index, sample in samples:
            pair = validation_pair(index, sample, self.config.data.evaluation_size, self.config.data.evaluation_masks)
            image, mask = (tensor[None].to(self.device) for tensor in pair)
            raw = network(image, mask)
            tally = tally.plus(measure(raw, image, mask), mask)
            if index in gallery:
                pictures.append(GalleryImage(gallery_key(index), gallery_strip(image, mask, raw)))
        # Ranks measure different pictures; sums and counts add up to the means over all.
        sums = torch.from_numpy(tally.sums).to(self.device)
        reduce.sum_([sums])
        return Validation(flat_metrics(MetricSums(sums.cpu().numpy())), pictures)

    @classmethod
    def measured(cls, config: Any) -> list[str]:
        """Returns the names of all metrics of `validate`."""
        return [*OVERALL, *(f"{name}_{bin}" for bin in RATIO_BINS for name in BINNED)]

    @classmethod
    def headlines(cls, config: Any) -> list[str]:
        """Names quality on held-out pictures, then the players' losses."""
        return ["val/psnr", "val/ssim", "train/generator", "train/discriminator", "train/l1"]

    def export(self, folder: Path) -> Exported:
        """Writes the generator, or its moving average, for `isnet.served`."""
        # The exported weights have spectral norm folded in, and no optimiser.
        save_model(cast("Generator", self.gan.eval_generator()), folder)
        trained = {"evaluation_size": self.config.data.evaluation_size, "masks": self.config.data.evaluation_masks}
        (folder / TRAINED).write_text(json.dumps(trained, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        pins = [f"{name}=={metadata.version(name).partition('+')[0]}" for name in REQUIREMENTS]
        return Exported("isnet.served", [Path(str(isnet.__file__)).parent], pins)

    def describe(self) -> dict[str, str | int | float]:
        """Returns the number of G's parameters."""
        generator = self.gan.modules()["generator"]
        return {"parameters": sum(parameter.numel() for parameter in generator.parameters())}


def _pair(batch: Batch) -> tuple[Tensor, Tensor]:
    """Converts a transform's batch to floats; images in [0, 1]."""
    return batch["image"].float().div_(255), batch["mask"].float()


def gallery_strip(image: Tensor, mask: Tensor, raw: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Draws one picture as damaged, repaired, prediction and truth.

    Args:
        image: truth, float (1, 3, H, W) in [0, 1].
        mask: float (1, 1, H, W), 1 on valid pixels.
        raw: prediction of the network, like `image`.
    """
    panels = {
        "damaged": image * mask,
        "repaired": composite(raw, image, mask),
        "prediction": raw,
        "truth": image,
    }
    # MLflow's pages show pictures in squares; as large as such a square is, and what matters in its upper half.
    return strip([(caption, to_pixels(panel[0])) for caption, panel in panels.items()], columns=2, least_height=192)


def to_pixels(picture: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Rounds (3, H, W) in [0, 1] to uint8 pixels."""
    return picture.detach().float().clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()


def flat_metrics(tally: MetricSums) -> dict[str, float]:
    """Names means over all pictures `psnr`, by bin `psnr_10-20`."""
    overall = tally.overall()
    metrics = {name: overall[name] for name in OVERALL if name in overall}
    return metrics | {f"{name}_{bin}": row[name] for bin, row in tally.table().items() for name in BINNED}


def build_gan(config: ISNetConfig, device: torch.device) -> GAN:
    """Builds networks and losses; torch's global generator initialises weights."""
    model, loss = config.model, config.loss
    generator = isnet.build(model.name, **generator_options(config))
    discriminator = isnet.build(
        "discriminator",
        width=model.discriminator_width,
        init_std=model.init_std,
        spectral=model.spectral_norm != "none",
    )
    settings = gan_settings(config)
    # VGG19 is built only for losses that need its features.
    perceptual = build_perceptual(loss) if settings.loss.needs_vgg else None
    return GAN(generator, discriminator, settings, perceptual=perceptual, device=device)


def build_perceptual(loss: LossConfig) -> Perceptual:
    """Builds VGG19's features; an `InputError` names the setting."""
    assert loss.perceptual_weights is not None, "refused by LossConfig"
    try:
        return Perceptual(
            loss.perceptual_weights,
            perceptual_layers=loss.perceptual_layers,
            style_layers=loss.style_layers,
            normalise=loss.normalise,
        )
    except InputError as error:
        raise InputError(f"loss.perceptual_weights={loss.perceptual_weights}: {error}") from error


def gan_settings(config: ISNetConfig) -> GanSettings:
    """Collects the step's settings from sections `loss` and `train`."""
    # Fields of the dataclasses and of the sections have the same names.
    weights, settings = ({field.name for field in fields(kind)} for kind in (LossWeights, GanSettings))
    return GanSettings(
        loss=LossWeights(**config.loss.model_dump(include=weights)),
        **config.loss.model_dump(include=settings),
        **config.train.model_dump(include=settings),
    )


def generator_options(config: ISNetConfig) -> dict[str, Any]:
    """Collects `isnet.build`'s arguments except the generator's name."""
    model = config.model
    same = {"blocks", "width", "init_std", "dilation", "spectral_norm", "skips", "prune"}
    options = {**model.model_dump(include=same), "in_channels": 4 if model.mask_input else 3}
    return options | ({"activation": model.activation} if model.activation else {})
