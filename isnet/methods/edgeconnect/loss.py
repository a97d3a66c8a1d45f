"""Losses of EdgeConnect's two networks, in terms of ISNet's.

| network | terms |
|---|---|
| edges, G1 | `losses.adversarial_loss`, `losses.feature_matching_loss` over D1's five maps, logits among them |
| D1 | `losses.discriminator_loss` of `edge_pair`: whole, unmasked gray beside the raw output |
| picture, G2 | `losses.l1_loss` in mode `hole_ratio`, adversarial, perceptual; style on `style_views` |
| D2 | `losses.discriminator_loss` of truth and raw prediction |

All in [0, 1]; VGG19 without ImageNet's normalisation. The GAN is `nsgan` in the released configuration. The paper's
text takes style on the other side of the mask; the code takes the hole (issue 94 of the released code), and so do we.
The released fallback weights (style 1, perceptual 1, adversarial 0.01) are not those of its example, which are the
paper's.
"""

from __future__ import annotations

from typing import Literal, assert_never

import torch
from torch import Tensor

EDGE_WEIGHTS = {"adversarial": 1.0, "feature_matching": 10.0}
"""Weights of G1's terms, from the paper and the released example."""

INPAINT_WEIGHTS = {"l1": 1.0, "adversarial": 0.1, "perceptual": 0.1, "style": 250.0}
"""Weights of G2's terms, from the paper and the released example."""

KnownEdges = Literal["merged", "released"]


def edge_pair(gray_B1HW: Tensor, edges_B1HW: Tensor) -> Tensor:
    """Joins whole gray and edges into D1's input."""
    return torch.cat([gray_B1HW, edges_B1HW], dim=1)


def joined_edges(
    predicted_B1HW: Tensor, known_B1HW: Tensor, mask_B1HW: Tensor, *, known: KnownEdges = "merged"
) -> Tensor:
    """Edges that G2 gets in the third stage.

    They are soft, not thresholded. `merged` keeps Canny's edges around the hole, as training does; `released` is what
    the released test does, G1's output everywhere.
    """
    if known == "merged":
        return predicted_B1HW * (1 - mask_B1HW) + known_B1HW * mask_B1HW
    if known == "released":
        return predicted_B1HW
    assert_never(known)


def style_views(prediction: Tensor, truth: Tensor, mask_B1HW: Tensor) -> tuple[Tensor, Tensor]:
    """Returns prediction and truth, black around the hole."""
    hole = 1 - mask_B1HW.to(prediction.dtype)
    return prediction * hole, truth * hole
