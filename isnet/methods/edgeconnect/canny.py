"""Edge maps of EdgeConnect, by Canny's method."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

RANDOM_SIGMA, NO_EDGES = 0, -1
"""Values of sigma that the released code gives another meaning."""

_LARGEST_RANDOM_SIGMA = 4


def canny_edges(
    gray_HW: NDArray[Any],
    mask_HW: NDArray[np.bool_] | None,
    *,
    sigma: float = 2.0,
    rng: np.random.Generator | None = None,
) -> NDArray[np.bool_]:
    """Finds edges of a gray picture, True on an edge.

    With a mask (True on known pixels) no edge lies within a pixel of the hole or of the border, and nothing of the hole
    reaches the others: the only form that can be used in a test, and so our default in training too. The released code
    trains on the edges of the whole picture, cut by the mask afterwards (`mask_HW` None, then `& mask`), some of which
    were computed from pixels of the hole.

    Args:
        gray_HW: In [0, 1], as `networks.gray_of` makes it; computed in float64, so that float32 does not move an edge.
        mask_HW: None for the whole picture.
        sigma: Standard deviation of the smoothing in pixels; 0 draws 1 to 4 from `rng`, -1 finds no edges.
        rng: For sigma 0 alone.
    """
    from skimage.feature import canny

    if sigma == NO_EDGES:
        return np.zeros(gray_HW.shape, dtype=bool)
    if sigma == RANDOM_SIGMA:
        assert rng is not None, "a random sigma needs a generator"
        sigma = int(rng.integers(1, _LARGEST_RANDOM_SIGMA + 1))
    # Its defaults are the released code's: thresholds of 0.1 and 0.2, zero beyond the border.
    edges: NDArray[np.bool_] = canny(np.asarray(gray_HW, dtype=np.float64), sigma=sigma, mask=mask_HW)
    return edges
