"""Fills pictures of any size with a generator.

Pads a picture to the network's multiple, and cuts a large one into tiles. A network fills best at the scale it was
trained at: with `refine="auto"` it first fills a reduced picture, whose hole is shallow, then at each finer scale the
rim of the hole, around what the coarser scale has filled. Not here: files, modes and compositing (`isnet.inpaint`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, cast, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isnet.errors import InputError, NonFiniteOutput
from isnet.inference.fast_conv import prepare_for_inference
from isnet.inference.filler import Filler, Hole, Rgb
from isnet.inference.scales import continued, depth_of, doubled, scales
from isnet.inference.tiles import Tile, around, blend_weights, padded_length, tiles
from isnet.spectral_norm import fold_spectral_norm

Precision = Literal["fp32", "bf16", "fp16"]
Refine = Literal["auto", "off"]

# Measured in float32 without gradients: ISNet and UNet-like take 1.2 to 1.6 KiB a pixel, the base models 4.
MAX_PIXELS_AT_ONCE = 1 << 20
# A tile with a larger share of hole has too little context; it takes the prediction for the reduced picture.
_BLIND_ABOVE = 0.8
# With `refine`: width of the rim that a scale fills, in sides of the pictures trained on; docs/LOG.md has the others.
_REACH = 1 / 16
# Pictures of more sides of those trained on are called large.
_LARGE = 2
# With `refine` more scales are in memory, and tiles need less around them.
_REFINED_TILE_PIXELS = 1 << 18


def checked_refine(refine: object) -> Refine:
    """Checks the name of a way to fill large pictures."""
    if refine not in get_args(Refine):
        raise InputError(f"refine is {refine!r}; need one of {', '.join(get_args(Refine))}")
    return cast(Refine, refine)


class Predictor(Filler):
    """Runs a generator on pictures of any size.

    It keeps a copy of the generator as it is at creation.

    Args:
        net: The generator, called as `net(image_B3HW, mask_B1HW)`.
        device: Where the copy runs.
        precision: "bf16" and "fp16" run under autocast; results are always float32.
        max_pixels: Larger pictures are cut into overlapping tiles; halved when a GPU runs out of memory.
        name: The name in tables.
        trained_size: Side of the squares that the network was trained on, pixels; None if unknown.
        refine: "auto" fills coarse to fine where `trained_size` is known, "off" at the picture's own scale alone.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        device: str | torch.device = "cpu",
        precision: Precision = "fp32",
        max_pixels: int = MAX_PIXELS_AT_ONCE,
        name: str = "network",
        trained_size: int | None = None,
        refine: Refine = "off",
    ) -> None:
        if precision not in get_args(Precision):
            raise InputError(f"precision is {precision!r}; need one of {', '.join(get_args(Precision))}")
        self.device = torch.device(device)
        # Folding copies: the caller's network keeps its device, type and spectral norm.
        folded = fold_spectral_norm(net).to(self.device, torch.float32).eval()
        # Packed weights are float32; autocast needs ordinary ones, which it can cast.
        self.net = prepare_for_inference(folded) if precision == "fp32" else folded
        self.precision = precision
        self.name = name
        self.multiple = int(getattr(net, "size_multiple", 16))
        self.minimum = int(getattr(net, "minimum_size", self.multiple))
        self.max_pixels = max_pixels
        if trained_size is not None and trained_size < 1:
            raise InputError(
                f"trained_size is {trained_size}; need the side of the training pictures in pixels, or None"
            )
        self.trained_size = trained_size
        self.refine = checked_refine(refine)
        self._check_limit()

    def with_refine(self, refine: Refine) -> Predictor:
        """Copies the predictor with another `refine`; the network is shared."""
        copied = copy.copy(self)
        copied.refine = checked_refine(refine)
        return copied

    @property
    def is_refined(self) -> bool:
        """True if pictures are filled coarse to fine."""
        return self.refine == "auto" and self.trained_size is not None

    def notes(self, height: int, width: int) -> list[str]:
        """Remarks for the user on filling this size."""
        if self.is_refined:
            return []
        notes = []
        if self.trained_size is not None and max(height, width) > _LARGE * self.trained_size:
            notes.append(
                f"the network was trained on squares of {self.trained_size} pixels and fills {width}x{height} at one "
                "scale, which is poor in wide holes; refine auto fills coarse to fine"
            )
        if (count := len(self.plan(height, width))) > 1:
            notes.append(f"the picture was cut into {count} overlapping tiles")
        return notes

    def _check_limit(self) -> None:
        smallest = padded_length(1, multiple=self.multiple, minimum=self.minimum) ** 2
        if self.max_pixels < smallest:
            raise InputError(
                f"max_pixels is {self.max_pixels}; need at least {smallest}, the smallest picture the network takes"
            )

    def predict(self, rgb_HW3: Rgb, hole_HW: Hole, *, everywhere: bool = False) -> Rgb:
        """Predicts as `Filler.predict`, in tiles where needed.

        Without `everywhere`, tiles without a hole are copied.
        """
        while True:
            try:
                predict = self._refined if self.is_refined else self._predict
                return predict(rgb_HW3, hole_HW, everywhere=everywhere)
            except torch.OutOfMemoryError:
                # Try again with smaller tiles, down to the smallest picture.
                self.max_pixels = min(self.max_pixels, hole_HW.size) // 2
                self._check_limit()

    def _predict_batch(self, image_B3HW: Tensor, valid_B1HW: Tensor) -> Tensor:
        """Predicts in one pass where network, limit and `refine` allow."""
        height, width = image_B3HW.shape[-2:]
        fits = height % self.multiple == 0 == width % self.multiple and min(height, width) >= self.minimum
        if self.is_refined or not fits or height * width > self.max_pixels:
            return super()._predict_batch(image_B3HW, valid_B1HW)
        predicted = self._forward(image_B3HW.to(self.device), valid_B1HW.to(self.device, torch.float32))
        # A tensor of inference mode takes no part in autograd; its clone does.
        return predicted.to(image_B3HW.device).clone()

    def plan(self, height: int, width: int) -> list[Tile]:
        """Tiles of a picture of this size."""
        return tiles(height, width, max_pixels=self.max_pixels, multiple=self.multiple, minimum=self.minimum)

    def _predict(self, rgb_HW3: Rgb, hole_HW: Hole, *, everywhere: bool) -> Rgb:
        plan = self.plan(*hole_HW.shape)
        if len(plan) == 1:
            return self._whole(rgb_HW3, hole_HW)
        coarse: Rgb | None = None

        def answer(tile: Tile) -> Rgb:
            nonlocal coarse
            if hole_HW[tile.area].mean() <= _BLIND_ABOVE:
                return self._whole(rgb_HW3[tile.area], hole_HW[tile.area])
            # Computed once, for the first such tile.
            coarse = self._coarse(rgb_HW3, hole_HW) if coarse is None else coarse
            return coarse[tile.area]

        needed = [tile for tile in plan if everywhere or hole_HW[tile.area].any()]
        return _blended(rgb_HW3, needed, answer)

    def _refined(self, rgb_HW3: Rgb, hole_HW: Hole, *, everywhere: bool) -> Rgb:
        """Predicts coarse to fine, at each scale a rim."""
        assert self.trained_size is not None
        reach = max(1.0, _REACH * self.trained_size)
        pyramid = scales(rgb_HW3, hole_HW, reach=reach, smallest=self.minimum)
        filled: Rgb | None = None
        for number in reversed(range(len(pyramid))):
            image, hole = pyramid.pop()
            filled = self._at_scale(image, hole, filled, reach=reach, everywhere=everywhere and number == 0)
        assert filled is not None
        return filled

    def _at_scale(
        self, image_HW3: Rgb, hole_HW: Hole, coarse_HW3: Rgb | None, *, reach: float, everywhere: bool
    ) -> Rgb:
        """Fills one scale around the result of the coarser one."""
        if coarse_HW3 is None:
            # The coarsest scale: the network fills all of the hole.
            context_HW3, hidden, share = image_HW3, hole_HW, None
        else:
            # The network's share is 1 to half the reach, and falls to 0 at the reach; what is deeper counts as known.
            context_HW3 = doubled(coarse_HW3, *hole_HW.shape)
            np.copyto(context_HW3, image_HW3, where=~hole_HW[..., None])
            share = depth_of(hole_HW)
            share *= np.float32(-2 / reach)
            share += 2
            np.clip(share, 0, 1, out=share)
            hidden = hole_HW & (share > 0)

        def answer(tile: Tile) -> Rgb:
            image, hole = context_HW3[tile.area], hidden[tile.area]
            predicted = self._whole(image, hole)
            # What the network gets wrong on known pixels it gets wrong beside them, too.
            error = continued(np.where(hole[..., None], np.float32(0), image - predicted), hole)
            return np.where(hole[..., None], np.clip(predicted + error, 0, 1), predicted)

        plan = tiles(
            *hole_HW.shape,
            max_pixels=min(self.max_pixels, _REFINED_TILE_PIXELS),
            multiple=self.multiple,
            minimum=self.minimum,
        )
        # The raw prediction needs all tiles, a fill those parts that are around the hole.
        if not everywhere:
            assert self.trained_size is not None
            plan = [around(tile, hidden, margin=self.trained_size) for tile in plan if hidden[tile.area].any()]
        predicted = _blended(context_HW3, plan, answer)
        if share is not None:
            own = share[hidden][:, None]
            predicted[hidden] = own * predicted[hidden] + (1 - own) * context_HW3[hidden]
        # Tiles have predicted pixels that nobody asked for: known ones, and those of the coarser scale.
        copied = ~hidden & hole_HW if everywhere else ~hidden
        np.copyto(predicted, context_HW3, where=copied[..., None])
        return predicted

    def _whole(self, rgb_HW3: Rgb, hole_HW: Hole) -> Rgb:
        """Predicts in one pass over the picture, padded by reflection."""
        height, width = hole_HW.shape
        below = padded_length(height, multiple=self.multiple, minimum=self.minimum) - height
        right = padded_length(width, multiple=self.multiple, minimum=self.minimum) - width
        # numpy's reflect repeats where the picture is narrower than the padding, down to a single pixel.
        image = np.pad(rgb_HW3, ((0, below), (0, right), (0, 0)), mode="reflect")
        hole = np.pad(hole_HW, ((0, below), (0, right)), mode="reflect")
        image_B3HW = torch.from_numpy(image).permute(2, 0, 1)[None].contiguous().to(self.device)
        mask_B1HW = torch.from_numpy(~hole)[None, None].to(self.device, torch.float32)
        # The padding is cropped off again.
        predicted = self._forward(image_B3HW, mask_B1HW)[0, :, :height, :width]
        return predicted.permute(1, 2, 0).contiguous().cpu().numpy()

    @torch.inference_mode()
    def _forward(self, image_B3HW: Tensor, mask_B1HW: Tensor) -> Tensor:
        # The network never gets the hole's content, however it uses the mask. Not a product: NaN · 0 is NaN.
        hidden_B3HW = torch.where(mask_B1HW > 0.5, image_B3HW, torch.zeros_like(image_B3HW))
        with self._autocast():
            predicted: Tensor = self.net(hidden_B3HW, mask_B1HW).float()
        if not torch.isfinite(predicted).all():
            raise NonFiniteOutput(
                f"the network answered with NaN or infinity at {self.precision}; "
                "use precision 'fp32', and check the weights if that does not help"
            )
        return predicted.clamp(0, 1)

    def _autocast(self) -> AbstractContextManager[object]:
        if self.precision == "fp32":
            return nullcontext()
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float16
        return torch.autocast(self.device.type, dtype=dtype)

    def _coarse(self, rgb_HW3: Rgb, hole_HW: Hole) -> Rgb:
        """Predicts the reduced picture in one pass, and enlarges it.

        For holes larger than a tile.
        """
        # The least whole factor whose result fits one pass.
        height, width = hole_HW.shape
        factor = math.ceil(math.sqrt(height * width / self.max_pixels))
        while len(self.plan(math.ceil(height / factor), math.ceil(width / factor))) > 1:
            factor += 1
        below, right = -height % factor, -width % factor
        valid = np.pad((~hole_HW)[..., None].astype(np.float32), ((0, below), (0, right), (0, 0)), mode="edge")
        image = np.pad(rgb_HW3, ((0, below), (0, right), (0, 0)), mode="edge")
        # (1, C, H/f, W/f): the mean of the known pixels of each block; a block without any is hole.
        share = _pooled(valid, factor)
        small = _pooled(np.where(valid > 0, image, np.float32(0)), factor) / share.clamp_min(1e-6)
        predicted = self._whole(small[0].permute(1, 2, 0).contiguous().numpy(), (share[0, 0] == 0).numpy())
        large = F.interpolate(
            torch.from_numpy(predicted).permute(2, 0, 1)[None],
            scale_factor=factor,
            mode="bilinear",
            align_corners=False,
        )
        return large[0, :, :height, :width].permute(1, 2, 0).contiguous().numpy()


def _blended(rgb_HW3: Rgb, plan: list[Tile], answer: Callable[[Tile], Rgb]) -> Rgb:
    """Blends overlapping tiles; copies the picture outside of them."""
    height, width = rgb_HW3.shape[:2]
    total = np.zeros((height, width, 3), np.float32)
    weight = np.zeros((height, width, 1), np.float32)
    # In reading order, whatever the plan's: sums of floats depend on it.
    for tile in sorted(plan, key=lambda tile: (tile.top, tile.left)):
        tile_weight = blend_weights(tile, height, width)
        total[tile.area] += tile_weight * answer(tile)
        weight[tile.area] += tile_weight
    # In place: a large picture is not held twice more.
    np.copyto(total, rgb_HW3, where=weight == 0)
    np.divide(total, weight, out=total, where=weight > 0)
    return total


def _pooled(array_HWC: Rgb, factor: int) -> Tensor:
    return F.avg_pool2d(torch.from_numpy(array_HWC).permute(2, 0, 1)[None].contiguous(), factor)
