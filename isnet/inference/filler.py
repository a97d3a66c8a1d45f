"""Interface of all methods that fill holes, learned or classical.

fill = classical("telea")                       # or Predictor(net)
filled_HW3 = fill(image_HW3, hole_HW)           # uint8 in and out, equal outside the hole
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isnet.errors import InputError

Rgb = NDArray[np.float32]
Hole = NDArray[np.bool_]


class Filler(ABC):
    """Predicts a whole picture from the part outside the hole."""

    name: str

    @abstractmethod
    def predict(self, rgb_HW3: Rgb, hole_HW: Hole, *, everywhere: bool = False) -> Rgb:
        """Predicts the whole picture: float32 RGB in [0, 1].

        Args:
            rgb_HW3: RGB in [0, 1], any height and width; its values in the hole are never used.
            hole_HW: True in the hole.
            everywhere: True needs a prediction outside the hole too; False allows any values there.
        """

    @final
    def __call__(self, image_HW3: NDArray[np.uint8], hole_HW: Hole) -> NDArray[np.uint8]:
        """Fills the hole in uint8 (H, W, 3).

        Known pixels stay bit-identical.
        """
        if image_HW3.dtype != np.uint8 or image_HW3.ndim != 3 or image_HW3.shape[2] != 3:
            raise InputError(
                f"image has shape {image_HW3.shape} and dtype {image_HW3.dtype}; need uint8 (H, W, 3); "
                "isnet.inpaint.inpaint takes other kinds"
            )
        if hole_HW.dtype != np.bool_ or hole_HW.shape != image_HW3.shape[:2]:
            raise InputError(
                f"hole has shape {hole_HW.shape} and dtype {hole_HW.dtype}, the image {image_HW3.shape[:2]}; "
                "need bool of the image's height and width, True in the hole"
            )
        if not hole_HW.any():
            return image_HW3.copy()
        # Predict in [0, 1], then round back and keep the known bytes.
        predicted = self.predict(image_HW3.astype(np.float32) / np.float32(255), hole_HW)
        filled = np.rint(np.clip(predicted, 0, 1) * 255).astype(np.uint8)
        return np.where(hole_HW[..., None], filled, image_HW3)

    @final
    def predict_batch(self, image_B3HW: Tensor, mask_B1HW: Tensor) -> Tensor:
        """Predicts a batch in float32, on the images' device.

        Args:
            image_B3HW: RGB of a floating type in [0, 1], all of one size.
            mask_B1HW: Above 0.5 on valid pixels, else hole.
        """
        image, mask = tuple(image_B3HW.shape), tuple(mask_B1HW.shape)
        if len(image) != 4 or image[1] != 3 or 0 in image or mask != (image[0], 1, *image[2:]):
            raise InputError(
                f"images have shape {image} and masks {mask}; need (B, 3, H, W) and (B, 1, H, W) with equal B, H, W, "
                "none of them 0"
            )
        if not image_B3HW.is_floating_point():
            raise InputError(f"images are {image_B3HW.dtype}; need a floating type in [0, 1]; divide bytes by 255")
        return self._predict_batch(image_B3HW.detach().float(), mask_B1HW.detach() > 0.5)

    def _predict_batch(self, image_B3HW: Tensor, valid_B1HW: Tensor) -> Tensor:
        """Predicts checked float32 images, one by one."""
        images = image_B3HW.cpu().permute(0, 2, 3, 1).numpy()
        holes = ~valid_B1HW[:, 0].cpu().numpy()
        predicted = [self.predict(image, hole) for image, hole in zip(images, holes, strict=True)]
        return torch.from_numpy(np.stack(predicted)).permute(0, 3, 1, 2).to(image_B3HW.device)
