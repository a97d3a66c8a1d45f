"""Classical methods without learning: the baselines of every table.

* `mean`: the mean colour of the known pixels;
* `telea`: fast marching (Telea 2004), OpenCV;
* `ns`: Navier–Stokes (Bertalmio et al. 2001), OpenCV;
* `biharmonic`: smoothest continuation (Damelin and Hoang 2018), scikit-image; minutes on holes of a megapixel.

All use known pixels alone. Without any they return mid-gray.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import final

import numpy as np
from numpy.typing import NDArray

from isnet.errors import InputError
from isnet.inference.filler import Filler, Hole, Rgb

# Neighbourhood of OpenCV's methods; its examples use 3 pixels.
_RADIUS_PX = 3


class Classical(Filler):
    """Classical method: predicts the hole, and copies the known pixels."""

    def __init__(self, name: str) -> None:
        self.name = name

    @final
    def predict(self, rgb_HW3: Rgb, hole_HW: Hole, *, everywhere: bool = False) -> Rgb:
        """Predicts as `Filler.predict`; `everywhere` makes no difference."""
        if hole_HW.all():
            return np.full_like(rgb_HW3, 0.5)
        if not hole_HW.any():
            return rgb_HW3.copy()
        # No method sees the content of the hole: it is gray.
        hidden = np.where(hole_HW[..., None], np.float32(0.5), rgb_HW3)
        filled = np.clip(self._fill(hidden, hole_HW), 0, 1).astype(np.float32)
        return np.where(hole_HW[..., None], filled, rgb_HW3)

    @abstractmethod
    def _fill(self, rgb_HW3: Rgb, hole_HW: Hole) -> NDArray[np.floating]:
        """Predicts RGB (H, W, 3) for a gray hole.

        The hole is neither empty nor the whole picture.
        """


class _Mean(Classical):
    def _fill(self, rgb_HW3: Rgb, hole_HW: Hole) -> NDArray[np.floating]:
        return np.broadcast_to(rgb_HW3[~hole_HW].mean(axis=0, dtype=np.float64), rgb_HW3.shape)


class _OpenCV(Classical):
    def _fill(self, rgb_HW3: Rgb, hole_HW: Hole) -> NDArray[np.floating]:
        import cv2

        method = {"telea": cv2.INPAINT_TELEA, "ns": cv2.INPAINT_NS}[self.name]
        # 8 bits: OpenCV fills colour at no other depth.
        eight_bit = np.rint(rgb_HW3 * 255).astype(np.uint8)
        filled: NDArray[np.uint8] = cv2.inpaint(eight_bit, hole_HW.astype(np.uint8), _RADIUS_PX, method)
        return filled.astype(np.float32) / np.float32(255)


class _Biharmonic(Classical):
    def _fill(self, rgb_HW3: Rgb, hole_HW: Hole) -> NDArray[np.floating]:
        from skimage.restoration import inpaint_biharmonic

        filled: NDArray[np.float64] = inpaint_biharmonic(rgb_HW3.astype(np.float64), hole_HW, channel_axis=-1)
        return filled


_METHODS: dict[str, type[Classical]] = {"mean": _Mean, "telea": _OpenCV, "ns": _OpenCV, "biharmonic": _Biharmonic}
CLASSICAL = tuple(_METHODS)


def classical(name: str) -> Classical:
    """Classical method by its name, one of `CLASSICAL`."""
    if name not in _METHODS:
        raise InputError(f"method {name!r} is unknown; need one of {', '.join(_METHODS)}")
    return _METHODS[name](name)
