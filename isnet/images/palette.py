"""New colours for palette pictures: free entries, then the nearest.

Not here: reading the palette (`isnet.images.pixels`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Palette = NDArray[np.uint8]

# Colours compared at a time: 64 MiB of distances.
_CHUNK = 65536


def extend_palette(palette: Palette, colours_N3: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], Palette, str]:
    """Maps RGB colours (N, 3) to a palette, adding entries.

    Existing entries keep their numbers and colours, so known pixels stay as they were. Only opaque entries are used,
    where there are any.

    Returns:
        Indices (N,), the palette with new entries behind the old ones (K, 4), and a note for the user.
    """
    # Free entries take the colours that describe the hole best.
    num_free = 256 - len(palette)
    picture = Image.fromarray(np.ascontiguousarray(colours_N3[None]))
    if num_free > 0:
        quantized = picture.quantize(num_free, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        added = np.array(quantized.getpalette() or [], np.uint8).reshape(-1, 3)[:num_free]
        opaque = np.full((len(added), 1), 255, np.uint8)
        palette = np.concatenate([palette, np.concatenate([added, opaque], axis=1)])
    # Each pixel takes the nearest opaque entry, old or new.
    usable = np.flatnonzero(palette[:, 3] == 255)
    usable = usable if len(usable) else np.arange(len(palette))
    nearest = _nearest(palette[usable, :3], colours_N3)
    note = f"the picture has a palette: the hole was filled with {len(usable)} colours at most"
    return usable[nearest].astype(np.uint8), palette, note


def _nearest(entries_K3: NDArray[np.uint8], colours_N3: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Index of the nearest entry by squared RGB distance: (N,)."""
    entries = entries_K3.astype(np.float32)
    # |c − e|² without |c|², which is the same for every entry.
    offsets_K = (entries**2).sum(axis=1)
    return np.concatenate(
        [
            (offsets_K - 2 * (colours_N3[start : start + _CHUNK].astype(np.float32) @ entries.T)).argmin(axis=1)
            for start in range(0, len(colours_N3), _CHUNK)
        ]
    )
