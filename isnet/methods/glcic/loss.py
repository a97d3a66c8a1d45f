"""Losses of GLCIC (Iizuka et al. 2017, §3.3).

Pictures are in [0, 1]. Phase 1 moves G by `completion_loss`; phase 2 moves D by `losses.discriminator_loss` in kind
`nsgan`, on `logits` of its network; phase 3 moves both: G by ½(completion + α·adversarial), D by its own loss.

Differences from the released code (`Form`), whose form is the option `released`:
- D judges the composite, as in the paper; released: the raw output.
- D's loss in phase 3 is not multiplied by α: behind Adadelta's eps of 1e-6 gradients of 1e-4 vanish, and D stays at
  chance.
- gradients of G's loss are never added to D's; in the released code they half-train D to call fakes real.
Fakes and truths are separate batches for BatchNorm. Batch statistics join the samples of a batch, so micro-batches do
not add up to the whole batch unless the statistics are synchronised.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from isnet import losses
from isnet.losses import at_least_float32

Form = Literal["paper", "released"]

ALPHA = 4e-4
"""Weight of the adversarial loss, §3.3."""


def completion_loss(prediction: Tensor, truth: Tensor, mask_B1HW: Tensor, *, global_batch: int) -> Tensor:
    """Mean of (prediction - truth)²·hole over all pixels, Eq. 2."""
    difference = at_least_float32(prediction) - at_least_float32(truth)
    hole = 1 - mask_B1HW.to(difference.dtype)
    return (difference.square() * hole).mean() * (len(prediction) / global_batch)


def judged(prediction: Tensor, truth: Tensor, mask_B1HW: Tensor, *, form: Form = "paper") -> Tensor:
    """Picture that D gets as a fake."""
    return prediction if form == "released" else losses.composite(prediction, truth, mask_B1HW)


def joint_generator_loss(completion: Tensor, adversarial: Tensor, *, alpha: float = ALPHA) -> Tensor:
    """G's loss in phase 3."""
    return (completion + alpha * adversarial) / 2


def joint_discriminator_loss(own: Tensor, *, form: Form = "paper") -> Tensor:
    """D's loss in phase 3, from that of phase 2."""
    return ALPHA * own if form == "released" else own
