"""Fills pictures of any size with a generator.

Pads a picture to the network's multiple, and cuts a large one into tiles. Not here: files, modes and compositing
(`isnet.inpaint`).
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isnet.errors import InputError
from isnet.inference.fast_conv import prepare_for_inference
from isnet.inference.filler import Filler, Hole, Rgb
from isnet.inference.tiles import Tile, blend_weights, padded_length, tiles
from isnet.spectral_norm import fold_spectral_norm

Precision = Literal["fp32", "bf16", "fp16"]

# Measured in float32 without gradients: ISNet and UNet-like take 1.2 to 1.6 KiB a pixel, the base models 4.
MAX_PIXELS_AT_ONCE = 1 << 20
# A tile with a larger share of hole has too little context; it takes the prediction for the reduced picture.
_BLIND_ABOVE = 0.8


class Predictor(Filler):
    """Runs a generator on pictures of any size.

    It keeps a copy of the generator as it is at creation.

    Args:
        net: The generator, called as `net(image_B3HW, mask_B1HW)`.
        device: Where the copy runs.
        precision: "bf16" and "fp16" run under autocast; results are always float32.
        max_pixels: Larger pictures are cut into overlapping tiles; halved when a GPU runs out of memory.
        name: The name in tables.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        device: str | torch.device = "cpu",
        precision: Precision = "fp32",
        max_pixels: int = MAX_PIXELS_AT_ONCE,
        name: str = "network",
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
        self._check_limit()

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
                return self._predict(rgb_HW3, hole_HW, everywhere=everywhere)
            except torch.OutOfMemoryError:
                # Try again with smaller tiles, down to the smallest picture.
                self.max_pixels = min(self.max_pixels, hole_HW.size) // 2
                self._check_limit()

    def _predict_batch(self, image_B3HW: Tensor, valid_B1HW: Tensor) -> Tensor:
        """Predicts in one pass where network and limit allow."""
        height, width = image_B3HW.shape[-2:]
        fits = height % self.multiple == 0 == width % self.multiple and min(height, width) >= self.minimum
        if not fits or height * width > self.max_pixels:
            return super()._predict_batch(image_B3HW, valid_B1HW)
        predicted = self._forward(image_B3HW.to(self.device), valid_B1HW.to(self.device, torch.float32))
        # A tensor of inference mode takes no part in autograd; its clone does.
        return predicted.to(image_B3HW.device).clone()

    def plan(self, height: int, width: int) -> list[Tile]:
        """Tiles of a picture of this size."""
        return tiles(height, width, max_pixels=self.max_pixels, multiple=self.multiple, minimum=self.minimum)

    def _predict(self, rgb_HW3: Rgb, hole_HW: Hole, *, everywhere: bool) -> Rgb:
        height, width = hole_HW.shape
        plan = self.plan(height, width)
        if len(plan) == 1:
            return self._whole(rgb_HW3, hole_HW)
        coarse: Rgb | None = None
        # The weighted mean of overlapping tiles: the sum of predictions, and of their weights.
        total = np.zeros((height, width, 3), np.float32)
        weight = np.zeros((height, width, 1), np.float32)
        for tile in plan:
            if not everywhere and not hole_HW[tile.area].any():
                continue
            if hole_HW[tile.area].mean() > _BLIND_ABOVE:
                # Computed once, for the first such tile.
                coarse = self._coarse(rgb_HW3, hole_HW) if coarse is None else coarse
                predicted = coarse[tile.area]
            else:
                predicted = self._whole(rgb_HW3[tile.area], hole_HW[tile.area])
            tile_weight = blend_weights(tile, height, width)
            total[tile.area] += tile_weight * predicted
            weight[tile.area] += tile_weight
        return np.where(weight > 0, total / np.maximum(weight, np.float32(1e-12)), rgb_HW3)

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
            raise InputError(
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


def _pooled(array_HWC: Rgb, factor: int) -> Tensor:
    return F.avg_pool2d(torch.from_numpy(array_HWC).permute(2, 0, 1)[None].contiguous(), factor)
