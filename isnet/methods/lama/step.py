"""Training step of LaMa, with R1 in every step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from isnet import losses
from isnet.methods.lama import loss
from isnet.methods.lama.generator import LamaFiller
from isnet.methods.lama.networks import LamaDiscriminator
from isnet.methods.method import Method, MethodSettings
from isnet.training.players import Metrics, MicroBatch


class LamaTraining(Method):
    """G and D of LaMa; `train.clip_norm` shortens their gradients."""

    batch_norm = True
    generator: LamaFiller

    def __init__(
        self,
        generator: LamaFiller,
        settings: MethodSettings,
        *,
        perceptual: nn.Module | None,
        device: torch.device | str,
    ) -> None:
        networks = {"generator": generator, "discriminator": LamaDiscriminator(width=settings.discriminator_width)}
        super().__init__(networks, settings, device=device, perceptual=perceptual)
        # The released training leaves the perceptual network in training mode.
        if settings.released and self.perceptual is not None:
            self.perceptual.train()

    def _accumulate(self, batch: MicroBatch, global_batch: int, hole_ratio: Tensor | None) -> Metrics:
        truth, mask = batch
        self.generator.train()
        with self.timer.part("generator"):
            prediction = self.generator.fill(truth, mask)
        terms = {"l1": losses.masked_l1_loss(prediction, truth, mask, global_batch=global_batch)}
        if self.perceptual is not None:
            with self.timer.part("vgg"):
                with torch.no_grad():
                    of_truth = self.perceptual(truth)
                terms["perceptual"] = loss.perceptual_loss(
                    self.perceptual(prediction), of_truth, global_batch=global_batch
                )
        with self.timer.part("discriminator"):
            discriminator = self._networks["discriminator"]
            real_input = truth.detach().requires_grad_()
            real, real_maps = discriminator(real_input)
            fake, fake_maps = discriminator(prediction)
            terms["adversarial"] = losses.adversarial_loss(fake, kind="nsgan", global_batch=global_batch)
            terms["feature_matching"] = loss.feature_matching_loss(fake_maps, real_maps, global_batch=global_batch)
        with self.timer.part("generator"):
            metrics = self._descend(terms, "generator", keep_graph=True)
        with self.timer.part("discriminator"):
            own = loss.discriminator_loss(real, fake, mask, global_batch=global_batch)
            penalty = loss.r1_penalty(real, real_input, global_batch=global_batch)
            self._backward(own + loss.R1 * penalty, "discriminator")
        return metrics | {
            "discriminator": own.detach(),
            "r1": penalty.detach(),
            "d_real": losses.mean_logit(real, global_batch=global_batch),
            "d_fake": losses.mean_logit(fake, global_batch=global_batch),
        }


METHOD = LamaTraining
