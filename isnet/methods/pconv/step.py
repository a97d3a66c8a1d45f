"""Training step of PConv, in two phases, without a discriminator.

1: BatchNorm on batch statistics. 2: the encoder's on its running statistics, whose scales and shifts still learn.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from isnet import losses
from isnet.methods.method import Method, MethodSettings
from isnet.methods.pconv import loss
from isnet.methods.pconv.generator import PConvFiller
from isnet.methods.pconv.networks import normalised
from isnet.perceptual import Perceptual
from isnet.training.players import Metrics, MicroBatch


class PConvTraining(Method):
    """The U-Net alone."""

    batch_norm = True
    generator: PConvFiller

    def __init__(
        self,
        generator: PConvFiller,
        settings: MethodSettings,
        *,
        perceptual: nn.Module | None,
        device: torch.device | str,
    ) -> None:
        super().__init__({"generator": generator}, settings, device=device, perceptual=perceptual)

    def _accumulate(self, batch: MicroBatch, global_batch: int, hole_ratio: Tensor | None) -> Metrics:
        truth, mask = batch
        self.generator.train()
        if self.phase == 2:
            self.generator.net.encoder.eval()
        with self.timer.part("generator"):
            raw = self.generator.raw(truth, mask)
        image = normalised(truth)
        composite = losses.composite(raw, image, mask)
        terms = {
            "valid": loss.valid_loss(raw, image, mask, global_batch=global_batch),
            "hole": loss.hole_loss(raw, image, mask, global_batch=global_batch),
            "total_variation": loss.total_variation_loss(
                composite, mask, over="released" if self.settings.released else "hole", global_batch=global_batch
            ),
        }
        if isinstance(vgg := self.perceptual, Perceptual):
            with self.timer.part("vgg"):
                fake, real = self._features(raw, image)
                completed = vgg(composite)
                for name, compare, layers in (
                    ("perceptual", loss.perceptual_loss, vgg.perceptual_layers),
                    ("style", loss.style_loss, vgg.style_layers),
                ):
                    terms[name] = compare(fake, completed, real, layers, global_batch=global_batch)
        with self.timer.part("generator"):
            return self._descend(terms, "generator")


METHOD = PConvTraining
