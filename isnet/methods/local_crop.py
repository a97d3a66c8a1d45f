"""Crops around holes, for local discriminators."""

from __future__ import annotations

import torch
from torch import Tensor


def hole_corners(mask_B1HW: Tensor, side: int) -> Tensor:
    """Corners (top, left) of squares around the holes, (B, 2).

    The square's centre is that of the hole's bounding box, as far as the picture has room; without a hole it is the
    picture's.
    """
    hole = mask_B1HW[:, 0] < 0.5
    corners = [
        _start(hole.any(dim=2), side),
        _start(hole.any(dim=1), side),
    ]
    return torch.stack(corners, dim=1)


def random_corners(share_B2: Tensor, size: int, side: int) -> Tensor:
    """Corners (B, 2) of squares anywhere in a picture.

    `share_B2` are shares, in [0, 1), of the room.
    """
    return (share_B2 * (size - side + 1)).long()


def crops(picture_BCHW: Tensor, corners_B2: Tensor, side: int) -> Tensor:
    """Squares of `side` pixels at the corners."""
    offsets = torch.arange(side, device=picture_BCHW.device)
    rows = corners_B2[:, 0, None, None, None] + offsets[:, None]
    columns = corners_B2[:, 1, None, None, None] + offsets
    channels = torch.arange(picture_BCHW.shape[1], device=picture_BCHW.device)[:, None, None]
    samples = torch.arange(len(picture_BCHW), device=picture_BCHW.device)[:, None, None, None]
    return picture_BCHW[samples, channels, rows, columns]


def _start(occupied_BL: Tensor, side: int) -> Tensor:
    """First index of `side` that holds the occupied middle."""
    length = occupied_BL.shape[1]
    index = torch.arange(length, device=occupied_BL.device)
    first = torch.where(occupied_BL, index, length).amin(1)
    last = torch.where(occupied_BL, index, -1).amax(1)
    # Without a hole first is `length` and last -1, whose middle is the picture's.
    return ((first + last + 1 - side) // 2).clamp(0, length - side)
