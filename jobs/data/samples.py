"""Turns samples into pictures with holes, for training and validation."""

from __future__ import annotations

import hashlib
from dataclasses import astuple, dataclass
from multiprocessing.reduction import ForkingPickler
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isnet.errors import InputError
from isnet.images.crops import center_square, channels_first, flip, random_crop, resize_shorter_side
from isnet.images.decode import decode_rgb
from isnet.masks import RATIO_BINS, Hole, bin_range, irregular, valid_1HW
from jobs.data.mask_datasets import MaskSet, cache_mask_set, draw_hole, hole_generator
from jobs.data.mask_mixture import Masks, shares
from trainplane.data.types import Batch, Sample
from trainplane.errors import RunFailed

# Suffixes of the picture among a sample's members, in order of preference.
PICTURE_MEMBERS = ("jpg", "png", "webp")
Extra = Literal["edges", "draws"]
# Weights of gray, as in `isnet.methods.edgeconnect.networks`.
_GRAY = np.array([0.2125, 0.7154, 0.0721])


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
    masks: Masks  # generators of masks, or addresses of mask datasets
    extra: Extra | None = None  # what a method other than ISNet needs beside them
    sigma: float = 2.0  # smoothing before edges are found
    known_edges: bool = True  # edges of known pixels are found without those of the hole
    up_to: int | None = None  # largest shorter side, drawn from `resize` on for each crop; None takes `resize`

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Batch:
        """Returns `image` and `mask`, and what `extra` says.

        The image is uint8 (3, size, size); the mask is bool (1, size, size), True on valid pixels. Edges are bool
        (1, size, size) of the whole picture and of its known part; draws are two numbers from 0 up to 1.
        """
        rgb = self._crop(sample, rng)
        hole = draw_hole(self.masks, self.size, self.size, rng)
        if self.flip and rng.random() < 0.5:
            rgb = flip(rgb)
        # Only the mask is rotated, by a random multiple of 90 degrees; the picture is not (ISNET.md §6).
        hole = np.rot90(hole, int(rng.integers(4)))
        batch = {"image": torch.from_numpy(channels_first(rgb)), "mask": torch.from_numpy(~hole[None])}
        if self.extra == "edges":
            batch |= self._edges(rgb, ~hole)
        elif self.extra == "draws":
            batch["draws"] = torch.from_numpy(rng.random(2, dtype=np.float32))
        return batch

    def _crop(self, sample: Sample, rng: np.random.Generator) -> NDArray[np.uint8]:
        """Decodes a picture and cuts its square from it."""
        # A large picture is reduced while it is decoded.
        if self.resize is None:
            return center_square(decode_rgb(picture_bytes(sample), shortest=self.size), self.size)
        side = self.resize
        if self.up_to is not None:
            # Equal chances of each factor: as many crops from 100 to 200 pixels as from 200 to 400.
            side = round(side * (self.up_to / side) ** rng.random())
        rgb = decode_rgb(picture_bytes(sample), shortest=side)
        if self.up_to is not None:
            # A small photo is not enlarged without need: the network would learn its blur.
            side = min(side, max(min(rgb.shape[:2]), self.resize))
        return random_crop(resize_shorter_side(rgb, side), self.size, rng)

    def _edges(self, rgb: NDArray[np.uint8], valid: NDArray[np.bool_]) -> Batch:
        from isnet.methods.edgeconnect.canny import canny_edges

        gray = (rgb / 255) @ _GRAY
        edges = canny_edges(gray, None, sigma=self.sigma)
        around = canny_edges(gray, valid, sigma=self.sigma) if self.known_edges else edges & valid
        return {"edges": torch.from_numpy(edges[None]), "known_edges": torch.from_numpy(around[None])}


def _reduce_transform(transform: TrainTransform) -> tuple[Any, ...]:
    """Pickles a transform with its masks: workers need not read."""
    kinds = [hole_generator(kind) for kind in shares(transform.masks)]
    return _restore_transform, (astuple(transform), [kind for kind in kinds if isinstance(kind, MaskSet)])


def _restore_transform(settings: tuple[Any, ...], mask_sets: list[MaskSet]) -> TrainTransform:
    for masks in mask_sets:
        cache_mask_set(masks)
    return TrainTransform(*settings)


ForkingPickler.register(TrainTransform, _reduce_transform)


def float_batch(batch: Batch) -> tuple[Tensor, ...]:
    """Converts a batch to floats; images in [0, 1]."""
    image, *more = batch.values()
    return image.float().div_(255), *(values.float() for values in more)


def synthetic_batch(count: int, size: int, extra: Extra | None) -> Batch:
    """Batch of noise, to measure a step with."""
    mask = torch.rand(count, 1, size, size) > 0.3
    batch = {"image": torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8), "mask": mask}
    if extra == "edges":
        batch |= {"edges": mask, "known_edges": mask}
    elif extra == "draws":
        batch["draws"] = torch.rand(count, 2)
    return batch


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
