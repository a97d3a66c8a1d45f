"""ISNet behind trainplane's seam: what a sample becomes, one step of the GAN, how it is measured and exported."""

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
from isnet.images.crops import center_square, flip, planes, random_crop, shorter_side
from isnet.images.decode import decode_rgb
from isnet.losses import LossWeights
from isnet.masks import RATIO_BINS, Hole, bin_range, irregular, valid_1HW
from isnet.metrics import Tally, composite, measure
from isnet.perceptual import Perceptual
from isnet.spectral_norm import fold_spectral_norm
from isnet.weights import save_model
from jobs.config import ISNetConfig
from jobs.data.mask_datasets import MaskSet, cache_mask_set, hole_generator, pin_mask_sets
from jobs.train import compile_check
from trainplane.data.types import Batch, Sample
from trainplane.errors import RunFailed
from trainplane.task import Exported, Picture, Reducer, Task, Validation
from trainplane.tracking.images import strip
from trainplane.train.guard.policy import Balance
from trainplane.train.run_config import RunConfig

# Beside an exported model's weights: what it was trained for, which evaluation and prediction start from.
TRAINED = "trained.json"
# D's loss (half of Eq. 3): a hundredth of what it is when D knows nothing, and a third above that. D knows nothing when
# its logits are 0: 1 for the hinge, log 2 for cross entropy, 1/4 for squares of sigmoids.
D_LOSS_BOUNDS = {"hinge": (0.01, 1.33), "nsgan": (0.007, 0.92), "lsgan": (0.0025, 0.33)}
# What is measured over all held-out pictures, and by the ratio of their holes.
OVERALL = ("psnr", "ssim", "l1_percent", "l1_hole")
BINNED = ("psnr", "ssim", "l1_percent")
PICTURE_MEMBERS = ("jpg", "png", "webp")
REQUIREMENTS = ("torch", "numpy", "pillow", "safetensors", "simplejpeg", "opencv-python-headless")


def picture_bytes(sample: Sample) -> bytes:
    """The encoded picture among a sample's members; an `InputError` where there is none."""
    for member in PICTURE_MEMBERS:
        if member in sample:
            return sample[member]
    has = ", ".join(sorted(name for name in sample if not name.startswith("__"))) or "none"
    raise InputError(f"no picture among its members ({has}); need KEY.jpg, .png or .webp; pack the photos anew")


def to_tensor(rgb: np.ndarray[Any, Any]) -> Tensor:
    """uint8 (H, W, 3) to float32 (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1))).float().div_(255)


def fixed_hole(kind: str, size: int, index: int) -> Hole:
    """The hole of held-out picture `index`, always the same: bool (size, size).

    Irregular holes get a ratio of bin `index` mod 6, so that a few pictures see all ratios; the masks of a dataset are
    paired one to one.
    """
    draw = hole_generator(kind)
    if isinstance(draw, MaskSet):
        return draw.hole(index, size, size)
    rng = np.random.Generator(np.random.Philox(key=[_VALIDATION_STREAM, index]))
    if kind == "irregular":
        return irregular(size, size, rng, ratio=bin_range(RATIO_BINS[index % len(RATIO_BINS)]))
    return draw(size, size, rng)


@dataclass(frozen=True)
class TrainTransform:
    """A training sample: a crop with a hole. What is cut, flipped and masked comes from `rng` alone.

    image: uint8 (3, size, size); mask: bool (1, size, size), True on valid pixels. They become floats where they are
    trained on (`ISNetTask.step`): a fifth of the bytes goes from process to process and to the device.
    """

    size: int
    resize: int | None
    flip: bool
    masks: str

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Batch:
        rgb = decode_rgb(picture_bytes(sample), shortest=self.resize or self.size)
        if self.resize is None:
            rgb = center_square(rgb, self.size)
        else:
            rgb = random_crop(shorter_side(rgb, self.resize), self.size, rng)
        hole = hole_generator(self.masks)(self.size, self.size, rng)
        if self.flip and rng.random() < 0.5:
            rgb = flip(rgb)
        # The mask is turned by a random multiple of 90 degrees, the picture is not (ISNET.md §6).
        hole = np.rot90(hole, int(rng.integers(4)))
        return {"image": torch.from_numpy(planes(rgb)), "mask": torch.from_numpy(~hole[None])}


def _with_holes(transform: TrainTransform) -> tuple[Any, ...]:
    """For a decoding process: the masks of a dataset go along, so that it need not read them again."""
    draw = hole_generator(transform.masks)
    return _taking_holes, (astuple(transform), draw if isinstance(draw, MaskSet) else None)


def _taking_holes(settings: tuple[Any, ...], masks: MaskSet | None) -> TrainTransform:
    if masks is not None:
        cache_mask_set(masks)
    return TrainTransform(*settings)


ForkingPickler.register(TrainTransform, _with_holes)


@dataclass(frozen=True)
class HeldOut:
    """A held-out picture with its fixed hole. image (3, H, W), mask (1, H, W)."""

    index: int
    image: Tensor
    mask: Tensor


def held_out(index: int, sample: Sample, size: int, masks: str) -> HeldOut:
    """The validation view of a sample: its centre square, and the same hole at every validation."""
    try:
        rgb = center_square(decode_rgb(picture_bytes(sample), shortest=size), size)
    except InputError as error:
        key = sample["__key__"].decode("utf-8", "replace")
        raise RunFailed(
            f"held-out picture {key} (number {index}) cannot be read: {error}; repair it and pack data.val again"
        ) from error
    return HeldOut(index, to_tensor(rgb), torch.from_numpy(valid_1HW(fixed_hole(masks, size, index))))


_VALIDATION_STREAM = int.from_bytes(hashlib.sha256(b"isnet validation masks").digest()[:8])


class ISNetTask(Task):
    """G, D, their optimisers and the losses, as configured."""

    Config: ClassVar[type[RunConfig]] = ISNetConfig

    def __init__(self, config: Any, device: torch.device) -> None:
        super().__init__(config, device)
        pin_mask_sets(config)
        self.gan = build_gan(config, device)

    def modules(self) -> dict[str, nn.Module]:
        return self.gan.modules()

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return cast("dict[str, torch.optim.Optimizer]", self.gan.optimizers())

    @classmethod
    def transform_of(cls, config: Any) -> TrainTransform:
        pin_mask_sets(config)
        data = config.data
        return TrainTransform(data.size, data.resize, data.flip, data.masks)

    def self_check(self, micro_batch: Batch, *, reduce: Reducer) -> str | None:
        """Compiled networks against eager ones."""
        return compile_check.check(self.gan, *_pair(micro_batch), reduce=reduce) if self.config.train.compile else None

    def step(self, micro_batches: Sequence[Batch], *, global_batch: int, reduce: Reducer) -> dict[str, Tensor]:
        pairs = [_pair(batch) for batch in micro_batches]
        return self.gan.step(pairs, global_batch=global_batch, reduce=reduce)

    def balance(self) -> dict[str, Balance]:
        """D wins outright where its loss vanishes, and loses where it is above that of knowing nothing."""
        if not self.gan.settings.loss.needs_discriminator:
            return {}
        low, high = D_LOSS_BOUNDS[self.gan.settings.gan]
        bounds = Balance(
            low,
            high,
            below="D wins outright, G learns nothing from it",
            above="D is worse than knowing nothing",
            slows_below="discriminator",
            slows_above="generator",
        )
        return {"discriminator": bounds}

    def timings(self) -> dict[str, float]:
        return self.gan.stopwatch.seconds()

    @torch.no_grad()
    def validate(self, samples: Sequence[tuple[int, Sample]], *, reduce: Reducer, gallery: Sequence[int]) -> Validation:
        """PSNR, SSIM and L1 of the composite (definition `isnet`), overall and by hole ratio."""
        # Spectral norm is divided out once, not once a picture.
        network = fold_spectral_norm(self.gan.eval_generator()).eval()
        tally, pictures = Tally.empty(), []
        for index, sample in samples:
            view = held_out(index, sample, self.config.data.evaluation_size, self.config.data.evaluation_masks)
            image, mask = view.image[None].to(self.device), view.mask[None].to(self.device)
            raw = network(image, mask)
            tally = tally.plus(measure(raw, image, mask), mask)
            if index in gallery:
                pictures.append(Picture(f"gallery/{index:03d}", gallery_strip(image, mask, raw)))
        sums = torch.from_numpy(tally.sums).to(self.device)
        reduce.sum_([sums])
        return Validation(flat(Tally(sums.cpu().numpy())), pictures)

    @classmethod
    def measured(cls, config: Any) -> list[str]:
        return [*OVERALL, *(f"{name}_{bin}" for bin in RATIO_BINS for name in BINNED)]

    def export(self, folder: Path) -> Exported:
        save_model(cast("Generator", self.gan.eval_generator()), folder)
        trained = {"evaluation_size": self.config.data.evaluation_size, "masks": self.config.data.evaluation_masks}
        (folder / TRAINED).write_text(json.dumps(trained, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        pins = [f"{name}=={metadata.version(name).partition('+')[0]}" for name in REQUIREMENTS]
        return Exported("isnet.served", [Path(str(isnet.__file__)).parent], pins)

    def describe(self) -> dict[str, str | int | float]:
        generator = self.gan.modules()["generator"]
        return {"parameters": sum(parameter.numel() for parameter in generator.parameters())}


def _pair(batch: Batch) -> tuple[Tensor, Tensor]:
    """image float32 (B, 3, H, W) in [0, 1] and mask float32 (B, 1, H, W), of a batch as the transform made it."""
    return batch["image"].float().div_(255), batch["mask"].float()


def gallery_strip(image: Tensor, mask: Tensor, raw: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Damaged, mask, prediction, repaired and truth, from tensors of one picture (1, C, H, W).

    In two rows, because MLflow's pages give a picture a square.
    """
    panels = {
        "damaged": image * mask,
        "mask": (1 - mask).expand_as(image),
        "prediction": raw,
        "repaired": composite(raw, image, mask),
        "truth": image,
    }
    return strip([(caption, to_pixels(panel[0])) for caption, panel in panels.items()], columns=3)


def to_pixels(picture: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """float (3, H, W) in [0, 1] to uint8 (H, W, 3), rounded."""
    return picture.detach().float().clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()


def flat(tally: Tally) -> dict[str, float]:
    """Metrics over all pictures by name, and by bin as `psnr_10-20`."""
    overall = tally.overall()
    metrics = {name: overall[name] for name in OVERALL if name in overall}
    return metrics | {f"{name}_{bin}": row[name] for bin, row in tally.table().items() for name in BINNED}


def build_gan(config: ISNetConfig, device: torch.device) -> GAN:
    """The players of a run, freshly initialised from torch's global generator."""
    model, loss = config.model, config.loss
    generator = isnet.build(model.name, **generator_options(config))
    discriminator = isnet.build(
        "discriminator",
        width=model.discriminator_width,
        init_std=model.init_std,
        spectral=model.spectral_norm != "none",
    )
    settings = gan_settings(config)
    perceptual = None
    if settings.loss.needs_vgg:
        assert loss.perceptual_weights is not None, "refused by LossConfig"
        perceptual = Perceptual(
            loss.perceptual_weights,
            perceptual_layers=loss.perceptual_layers,
            style_layers=loss.style_layers,
            normalise=loss.normalise,
        )
    return GAN(generator, discriminator, settings, perceptual=perceptual, device=device)


def gan_settings(config: ISNetConfig) -> GanSettings:
    """Settings of the training step, taken from sections `loss` and `train` by name."""
    weights, settings = ({field.name for field in fields(kind)} for kind in (LossWeights, GanSettings))
    return GanSettings(
        loss=LossWeights(**config.loss.model_dump(include=weights)),
        **config.loss.model_dump(include=settings),
        **config.train.model_dump(include=settings),
    )


def generator_options(config: ISNetConfig) -> dict[str, Any]:
    """Arguments of `isnet.build` beside the generator's name."""
    model = config.model
    same = {"blocks", "width", "init_std", "dilation", "spectral_norm", "skips", "prune"}
    options = {**model.model_dump(include=same), "in_channels": 4 if model.mask_input else 3}
    return options | ({"activation": model.activation} if model.activation else {})
