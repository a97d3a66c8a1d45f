"""The view that peers make of a picture, as their users write it: with Pillow, from whatever their decoder gives.

A square of `size` at a random place, after the shorter side was brought to `resize` where that is set.
"""

from __future__ import annotations

import io
import random
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image


@dataclass(frozen=True)
class View:
    """uint8 (size, size, 3)."""

    size: int
    resize: int | None

    def __call__(self, image: Image.Image) -> torch.Tensor:
        if image.mode != "RGB":
            image = image.convert("RGB")
        if self.resize is not None:
            scale = self.resize / min(image.size)
            shrunk = (max(self.size, round(image.width * scale)), max(self.size, round(image.height * scale)))
            image = image.resize(shrunk, Image.Resampling.BILINEAR)
        left = random.randint(0, image.width - self.size)
        top = random.randint(0, image.height - self.size)
        return torch.from_numpy(np.array(image.crop((left, top, left + self.size, top + self.size))))

    def of_bytes(self, data: bytes) -> torch.Tensor:
        return self(Image.open(io.BytesIO(data)))
