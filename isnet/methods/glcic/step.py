"""Training step of GLCIC, in three phases.

1: completion alone. 2: D alone. 3: both.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from isnet import losses
from isnet.methods.glcic.generator import GLCICFiller
from isnet.methods.glcic.loss import (
    Form,
    completion_loss,
    joint_discriminator_loss,
    joint_generator_loss,
    judged,
)
from isnet.methods.glcic.networks import ContextDiscriminator
from isnet.methods.local_crop import crops, hole_corners, random_corners
from isnet.methods.method import Method, MethodSettings
from isnet.training.players import Metrics, MicroBatch


class GLCICTraining(Method):
    """Completion network and context discriminator.

    A micro-batch is image, mask, and two numbers a sample that place the crop of the truth.
    """

    batch_norm = True
    generator: GLCICFiller

    def __init__(
        self,
        generator: GLCICFiller,
        settings: MethodSettings,
        *,
        perceptual: nn.Module | None,
        device: torch.device | str,
    ) -> None:
        # At least half of a side, the largest hole, in multiples of 32: 96 of 160 and 128 of 256 pixels, as released.
        self.crop = math.ceil(settings.size / 64) * 32
        discriminator = ContextDiscriminator(
            size=settings.size,
            crop=self.crop,
            width=settings.discriminator_width,
            order=generator.architecture.order,
        )
        super().__init__({"generator": generator, "discriminator": discriminator}, settings, device=device)
        self.form: Form = "released" if settings.released else "paper"

    def example_batch(self, count: int, size: int) -> MicroBatch:
        """Squares of `size` pixels, and places of the truth's crops."""
        return *super().example_batch(count, size), torch.zeros(count, 2)

    def _optimizer(self, name: str, network: nn.Module, rate: float) -> torch.optim.Optimizer:
        return torch.optim.Adadelta(self._groups(name, network, rate), lr=rate)

    def _moving(self) -> list[str]:
        return {1: ["generator"], 2: ["discriminator"], 3: ["generator", "discriminator"]}[self.phase]

    def _accumulate(self, batch: MicroBatch, global_batch: int, hole_ratio: Tensor | None) -> Metrics:
        truth, mask, places = batch
        # In phase 2 G is only used: its statistics stay as they are.
        self.generator.train(self.phase != 2)
        with self.timer.part("generator"), self._autocast(), torch.set_grad_enabled(self.phase != 2):
            prediction = self.generator.fill(truth, mask)
        metrics: Metrics = {}
        completion = completion_loss(prediction, truth, mask, global_batch=global_batch)
        total = completion
        if self.phase > 1:
            with self.timer.part("discriminator"):
                real, fake = self._logits(truth, prediction, mask, places)
                own = losses.discriminator_loss(real, fake, kind="nsgan", global_batch=global_batch)
                metrics = {"discriminator": own.detach()}
        if self.phase == 3:
            adversarial = losses.adversarial_loss(fake, kind="nsgan", global_batch=global_batch)
            total = joint_generator_loss(completion, adversarial, alpha=self._weight("adversarial"))
            metrics["adversarial"] = adversarial.detach()
        if self.phase != 2:
            with self.timer.part("generator"):
                self._backward(total, "generator", keep_graph=True)
        if self.phase > 1:
            with self.timer.part("discriminator"):
                self._backward(
                    joint_discriminator_loss(own, form=self.form) if self.phase == 3 else own, "discriminator"
                )
        return metrics | {"completion": completion.detach(), "generator": total.detach()}

    def _logits(self, truth: Tensor, prediction: Tensor, mask: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        # Truths and fakes are separate batches for BatchNorm.
        discriminator, side = cast("Any", self._networks["discriminator"]), self.crop
        fake = judged(prediction, truth, mask, form=self.form)
        around = hole_corners(mask, side)
        elsewhere = random_corners(places, truth.shape[2], side)
        with self._autocast():
            real_logits = discriminator.logits(truth, crops(truth, elsewhere, side))
            return real_logits, discriminator.logits(fake, crops(fake, around, side))


METHOD = GLCICTraining
