"""Training step of AOT-GAN, whose D sees composites."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from isnet import losses
from isnet.methods.aot_gan.generator import AOTFiller
from isnet.methods.aot_gan.loss import Labels, adversarial_loss, discriminator_loss, to_unit
from isnet.methods.aot_gan.networks import discriminator
from isnet.methods.method import Method, MethodSettings
from isnet.training.players import Metrics, MicroBatch


class AOTTraining(Method):
    """G and D of AOT-GAN."""

    generator: AOTFiller

    def __init__(
        self,
        generator: AOTFiller,
        settings: MethodSettings,
        *,
        perceptual: nn.Module | None,
        device: torch.device | str,
    ) -> None:
        networks = {"generator": generator, "discriminator": discriminator(width=settings.discriminator_width)}
        super().__init__(networks, settings, device=device, perceptual=perceptual)
        self.labels: Labels = "released" if settings.released else "paper"

    def _needs_hole_ratio(self) -> bool:
        return True

    def _accumulate(self, batch: MicroBatch, global_batch: int, hole_ratio: Tensor | None) -> Metrics:
        truth, mask = batch
        assert hole_ratio is not None
        with self.timer.part("generator"), self._autocast():
            raw = self.generator.raw(truth, mask)
        image = 2 * truth - 1
        terms = {"l1": losses.l1_loss(raw, image, mask, mode="plain", global_batch=global_batch)}
        terms |= self._vgg_terms(to_unit(raw), truth, global_batch)
        with self.timer.part("discriminator"):
            discriminator = self._networks["discriminator"]
            with self._autocast():
                real, fake = discriminator(image)[-1], discriminator(losses.composite(raw, image, mask))[-1]
            terms["adversarial"] = adversarial_loss(
                fake,
                mask,
                labels=self.labels,
                global_batch=global_batch,
                hole_ratio=hole_ratio,
                min_hole_ratio=self.settings.min_hole_ratio,
            )
            d_loss = discriminator_loss(real, fake, mask, labels=self.labels, global_batch=global_batch)
        with self.timer.part("generator"):
            metrics = self._descend(terms, "generator", keep_graph=True)
        with self.timer.part("discriminator"):
            self._backward(d_loss, "discriminator")
        return metrics | {
            "discriminator": d_loss.detach(),
            "d_real": losses.mean_logit(real, global_batch=global_batch),
            "d_fake": losses.mean_logit(fake, global_batch=global_batch),
        }


METHOD = AOTTraining
