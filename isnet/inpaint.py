"""Fills holes in pictures of any size and mode.

    result = inpaint("garden.jpg", "hole.png", model=Predictor(net))     # files, arrays or tensors
    result.image; result.notes; result.save("filled.png")

Size and mode stay the same, and known pixels are bit-identical. White in a mask means hole, unless `rules` say
otherwise, for files, arrays and tensors alike. A photo with an EXIF orientation is turned upright, and so is its mask.
Not here: the model (`isnet.inference.predictor`, `isnet.inference.classical`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from isnet.errors import InputError
from isnet.images.open_image import MAX_PIXELS
from isnet.images.photo import Photo, photo_of_array, read_photo
from isnet.images.pixels import apply_orientation
from isnet.images.save import write_photo
from isnet.inference.edges import checked_border, feathered, grown
from isnet.inference.filler import Filler, Hole
from isnet.inference.predictor import Predictor, Refine, checked_refine
from isnet.mask_files import MaskRules, ReadMask, mask_from_array, read_mask
from isnet.masks import hole_ratio

__all__ = ["Inpainted", "MaskRules", "Predictor", "check_borders", "inpaint"]

Array = NDArray[Any]
Source = str | os.PathLike[str] | bytes | Array | Tensor
MaskFrame = Literal["auto", "shown", "stored"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Inpainted:
    """Filled picture.

    Attributes:
        image: An array or tensor of the kind, shape and dtype of the input. For files an upright array of the photo's
            depth: (H, W) gray, (H, W, 2) gray and alpha, (H, W, 3) RGB or (H, W, 4) RGBA.
        photo: The same in the photo's own mode.
        hole: True on filled pixels, bool (H, W).
        ratio: Share of the hole, 0 to 1.
        notes: Remarks for the user about the photo, the mask and the filling.
    """

    image: Array | Tensor
    photo: Photo
    hole: Hole
    ratio: float
    notes: tuple[str, ...]

    def save(
        self, path: str | os.PathLike[str], *, quality: int = 95, seal: Callable[[bytes, str], bytes] | None = None
    ) -> tuple[str, ...]:
        """Writes the picture; returns notes on losses of its format.

        `seal` gets the encoded file and its suffix, and gives the one to write, such as a signed one.
        """
        return write_photo(self.photo, path, quality=quality, seal=seal)


def inpaint(
    image: Source,
    mask: Source,
    *,
    model: Filler | nn.Module,
    composite: bool = True,
    rules: MaskRules | None = None,
    resize_mask: bool = False,
    mask_frame: MaskFrame = "auto",
    max_pixels: int = MAX_PIXELS,
    refine: Refine | None = None,
    grow: int = 0,
    feather: int = 0,
) -> Inpainted:
    """Fills the white part of `mask` in `image`.

    Args:
        image: A file's path or bytes; an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8, uint16, bool or
            float in [0, 1]; a tensor (C, H, W) or (1, C, H, W) of uint8 or float in [0, 1].
        mask: Likewise, of the same height and width.
        model: A `Filler`, or a generator, which is then run on its own device in float32.
        composite: False returns the prediction for the whole picture, known pixels changed.
        rules: How to read the mask; None means white is hole.
        resize_mask: True resizes a mask of another size, nearest neighbour, instead of refusing it.
        mask_frame: For a photo with an EXIF orientation: "shown" if the mask was drawn on the upright picture, "stored"
            if on the stored pixels. "auto" decides by size, or, of a mask to be resized, by which shape is more like
            its own; where both are alike, it means "shown".
        max_pixels: A file with more pixels is refused.
        refine: "auto" fills coarse to fine with a `Predictor` that knows its `trained_size`, "off" at one scale; None
            leaves it to the predictor.
        grow: Pixels by which the hole is widened on all sides, 0 to 1024.
        feather: Pixels inside the hole over which the jump of colour at its border fades, 0 to 1024.

    Raises:
        InputError: The image, the mask, or the two together cannot be used; the message says why.
    """
    if mask_frame not in get_args(MaskFrame):
        raise InputError(f"mask_frame is {mask_frame!r}; need one of {', '.join(get_args(MaskFrame))}")
    if not isinstance(rules, MaskRules | None):
        raise InputError(f"rules is {rules!r}; need MaskRules, such as MaskRules(hole='black'), or None")
    check_borders(grow, feather, composite=composite)
    # Read both, then bring the mask to the photo's size and orientation.
    photo = _read_image(image, max_pixels)
    read = _fit_mask(_read_mask(mask, rules, max_pixels), photo, resize=resize_mask, frame=mask_frame)
    if grow and read.hole.any():
        wider = grown(read.hole, grow)
        note = f"mask grown by {grow} pixels, from {read.ratio:.1%} of the picture to {hole_ratio(wider):.1%}"
        read = replace(read, hole=wider, ratio=hole_ratio(wider), notes=(*read.notes, note))
    notes = [*photo.notes, *read.notes]
    filler = model if isinstance(model, Filler) else _predictor(model)
    if refine is not None:
        checked_refine(refine)
        filler = filler.with_refine(refine) if isinstance(filler, Predictor) else filler
    if composite and not read.hole.any():
        filled = photo
        notes.append("the picture is returned unchanged")
    else:
        # Predict in RGB, then write into the photo's own mode; its new notes follow the old ones.
        rgb = photo.rgb()
        predicted = filler.predict(rgb, read.hole, everywhere=not composite)
        predicted = feathered(predicted, rgb, read.hole, feather)
        filled = photo.filled(predicted, read.hole if composite else np.ones_like(read.hole))
        notes += filled.notes[len(photo.notes) :]
        if not composite:
            notes.append("this is the raw prediction: known pixels are changed")
        if isinstance(filler, Predictor):
            notes += filler.notes(*photo.size)
    return Inpainted(image=_like(image, filled), photo=filled, hole=read.hole, ratio=read.ratio, notes=tuple(notes))


def check_borders(grow: object, feather: object, *, composite: bool = True) -> None:
    """Checks `grow` and `feather`, before anything is read.

    Raises:
        InputError: A width is unusable, or there is no border to feather.
    """
    checked_border("grow", grow)
    if checked_border("feather", feather) and not composite:
        raise InputError(
            f"feather is {feather}, which softens the border between fill and known pixels, and a raw prediction "
            "has none; leave out one of the two"
        )


def _predictor(net: nn.Module) -> Predictor:
    parameter = next(net.parameters(), None)
    return Predictor(net, device=parameter.device if parameter is not None else "cpu")


def _read_image(image: Source, max_pixels: int) -> Photo:
    if isinstance(image, Tensor):
        return photo_of_array(_array_of_tensor(image, "image"))
    return photo_of_array(image) if isinstance(image, np.ndarray) else read_photo(_path(image), max_pixels=max_pixels)


def _read_mask(mask: Source, rules: MaskRules | None, max_pixels: int) -> ReadMask:
    if isinstance(mask, Tensor):
        return mask_from_array(_array_of_tensor(mask, "mask"), rules=rules)
    if isinstance(mask, np.ndarray):
        return mask_from_array(mask, rules=rules)
    return read_mask(_path(mask), rules=rules, max_pixels=max_pixels)


def _path(source: object) -> str | os.PathLike[str] | bytes:
    if isinstance(source, str | os.PathLike | bytes):
        return source
    raise InputError(f"got {type(source).__name__}; need a path, bytes, a numpy array or a torch tensor")


def _array_of_tensor(tensor: Tensor, what: str) -> Array:
    """Converts a tensor to an array (H, W, C).

    The tensor is (C, H, W) or (1, C, H, W), a mask also (H, W).
    """
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        kind = "without data" if tensor.is_meta else "quantized" if tensor.is_quantized else f"of {tensor.layout}"
        raise InputError(f"{what} is a tensor {kind}; need a dense one; convert it with .to_dense() or .dequantize()")
    planes = tensor.detach().cpu()
    # Drop a batch of one, and add the channel of a mask.
    if planes.ndim == 4 and planes.shape[0] == 1:
        planes = planes[0]
    if what == "mask" and planes.ndim == 2:
        planes = planes[None]
    if planes.ndim != 3 or planes.shape[0] > 4:
        raise InputError(
            f"{what} tensor has shape {tuple(tensor.shape)}; need (C, H, W) or (1, C, H, W) with C 1 to 4; "
            "hand in one picture at a time, or use predict_batch"
        )
    # numpy has no bfloat16; float32 holds each of its values.
    planes = planes.float() if planes.dtype == torch.bfloat16 else planes
    array: Array = planes.permute(1, 2, 0).contiguous().numpy()
    return array


def _fit_mask(mask: ReadMask, photo: Photo, *, resize: bool, frame: MaskFrame) -> ReadMask:
    """Turns or resizes the mask to the upright photo's size."""
    height, width = photo.size
    # Turn a mask of the stored pixels. Orientations 5 to 8 exchange height and width.
    if photo.orientation > 1:
        as_stored = (width, height) if photo.orientation >= 5 else (height, width)
        is_usable = resize or mask.hole.shape == as_stored
        if is_usable and (
            frame == "stored" or (frame == "auto" and _is_more_like(mask.hole.shape, as_stored, (height, width)))
        ):
            note = f"mask turned like the photo (EXIF orientation {photo.orientation})"
            mask = replace(mask, hole=apply_orientation(mask.hole, photo.orientation), notes=(*mask.notes, note))
    if mask.hole.shape == (height, width):
        return mask
    if not resize:
        raise InputError(
            f"mask is {mask.hole.shape[1]}x{mask.hole.shape[0]} and picture {width}x{height} (width x height); "
            "need the same size; draw the mask on this picture, or let it be stretched (--resize-mask, in Python "
            "resize_mask=True)"
        )
    return mask.resized(height, width)


def _is_more_like(shape: tuple[int, ...], one: tuple[int, int], other: tuple[int, int]) -> bool:
    """True if a shape is more like one than another.

    By the ratio of the sides; never for the other itself.
    """

    def distance(size: tuple[int, int]) -> float:
        return abs(math.log(shape[0] * size[1] / (shape[1] * size[0])))

    return shape != other and distance(one) < distance(other) - 1e-9


def _like(image: Source, photo: Photo) -> Array | Tensor:
    """Converts the filled photo to the input's kind."""
    if isinstance(image, Tensor):
        pixels = photo.pixels if photo.pixels.ndim == 3 else photo.pixels[..., None]
        return torch.from_numpy(np.moveaxis(pixels, 2, 0).copy()).to(image.device, image.dtype).reshape(image.shape)
    if isinstance(image, np.ndarray):
        return photo.pixels.reshape(image.shape).astype(image.dtype)
    return photo.plain()
