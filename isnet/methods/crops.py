"""Square crops around holes, for the local critics of GLCIC and CA."""

from __future__ import annotations

import torch
from torch import Tensor


def hole_corners(mask_B1HW: Tensor, size: int) -> Tensor:
    """Places a square of side `size` over the box of each hole.

    Centred on the box and pushed into the picture; a larger box is not covered whole, and a picture without a hole gets
    its middle. The papers know one box per picture and leave other holes open.

    Returns:
        Top and left (B, 2), int64.
    """
    hole = mask_B1HW[:, 0] == 0
    centres = [_centre(hole.any(dim)) for dim in (2, 1)]
    limits = [side - size for side in hole.shape[1:]]
    corners = [(centre - size).div(2, rounding_mode="floor") for centre in centres]
    return torch.stack([corner.clamp(0, limit) for corner, limit in zip(corners, limits, strict=True)], dim=1)


def crops(image_BCHW: Tensor, corners_B2: Tensor, size: int) -> Tensor:
    """Cuts a square of side `size` out of each picture."""
    return torch.stack(
        [
            image[:, top : top + size, left : left + size]
            for image, (top, left) in zip(image_BCHW, corners_B2.tolist(), strict=True)
        ]
    )


def _centre(occupied_BN: Tensor) -> Tensor:
    # Twice the centre of the range of true positions: first + last + 1.
    length = occupied_BN.shape[1]
    positions = torch.arange(length, device=occupied_BN.device)
    first = torch.where(occupied_BN, positions, length).amin(1)
    last = torch.where(occupied_BN, positions, -1).amax(1)
    return first + last + 1
