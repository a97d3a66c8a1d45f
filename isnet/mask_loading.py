"""Three ways of bringing a mask file to a picture's size, of which two are others' and change how large the hole is.

`nearest`     -- ours: nearest neighbour, the hole as large as it was drawn
`legacy-png`  -- the author's loader (ISNet.md §8, row 18): valid pixels white, bilinear resize, and everything above 0
                 is valid; a hole loses the rim in which the resize mixed both
`legacy-jpeg` -- the same from a mask that was stored as JPEG of quality 75, whose ringing makes valid pixels deep
                 inside the hole

What the difference is worth is measured by `isnet evaluate --mask-study`. Not here: reading any kind of mask file with
its rules (`isnet.mask_files`), which comes before this.
"""

from __future__ import annotations

import io
from typing import Literal, get_args

import numpy as np
from PIL import Image

from isnet.errors import InputError
from isnet.masks import Hole, resized_hole

Loading = Literal["nearest", "legacy-png", "legacy-jpeg"]
LOADINGS: tuple[Loading, ...] = get_args(Loading)
_QUALITY = 75


def loaded(hole_HW: Hole, height: int, width: int, *, way: Loading = "nearest") -> Hole:
    """The hole at another size as `way` loads it: bool (height, width), True in the hole."""
    if way not in LOADINGS:
        raise InputError(f"mask loading {way!r} is unknown; need one of {', '.join(LOADINGS)}")
    if way == "nearest":
        return resized_hole(hole_HW, height, width)
    valid = Image.fromarray(np.where(hole_HW, np.uint8(0), np.uint8(255)))
    if way == "legacy-jpeg":
        file = io.BytesIO()
        valid.save(file, "JPEG", quality=_QUALITY)
        valid = Image.open(file)
    found: Hole = np.asarray(valid.resize((width, height), Image.Resampling.BILINEAR)) == 0
    return found
