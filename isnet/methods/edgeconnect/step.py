"""EdgeConnect's training step, in three phases.

1: the edge generator and its D. 2: the inpainting generator and its D, on true edges. 3: the same two, on edges that
the fixed edge generator draws in the hole.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from isnet import losses
from isnet.methods.edgeconnect.generator import EdgeConnectFiller
from isnet.methods.edgeconnect.loss import EDGE_WEIGHTS, edge_pair, style_views
from isnet.methods.edgeconnect.networks import assemble_edge, gray_of
from isnet.methods.method import Method, MethodSettings
from isnet.methods.patch_discriminator import PatchDiscriminator
from isnet.training.players import Metrics, MicroBatch


class EdgeConnectTraining(Method):
    """Two generators and two discriminators.

    A micro-batch is image, mask, edges of the whole picture, and edges of the known pixels.
    """

    generator: EdgeConnectFiller

    def __init__(
        self,
        generator: EdgeConnectFiller,
        settings: MethodSettings,
        *,
        perceptual: nn.Module | None,
        device: torch.device | str,
    ) -> None:
        width = settings.discriminator_width
        networks: dict[str, nn.Module] = {
            "generator": generator,
            "discriminator": PatchDiscriminator(3, width=width),
            "edge_discriminator": PatchDiscriminator(2, width=width),
        }
        parts = {
            "generator": generator.inpaint,
            "edge_generator": generator.edge,
            "discriminator": networks["discriminator"],
            "edge_discriminator": networks["edge_discriminator"],
        }
        super().__init__(networks, settings, device=device, parts=parts, perceptual=perceptual)

    def example_batch(self, count: int, size: int) -> MicroBatch:
        """Squares of `size` pixels with their edges."""
        edges = torch.zeros(count, 1, size, size)
        return *super().example_batch(count, size), edges, edges

    def _moving(self) -> list[str]:
        return ["edge_generator", "edge_discriminator"] if self.phase == 1 else ["generator", "discriminator"]

    def _needs_hole_ratio(self) -> bool:
        return self.phase > 1

    def _accumulate(self, batch: MicroBatch, global_batch: int, hole_ratio: Tensor | None) -> Metrics:
        if self.phase == 1:
            return self._edge_step(*batch, global_batch=global_batch)
        assert hole_ratio is not None
        return self._picture_step(*batch, global_batch=global_batch, hole_ratio=hole_ratio)

    def _edge_step(self, truth: Tensor, mask: Tensor, edges: Tensor, known: Tensor, *, global_batch: int) -> Metrics:
        gray = gray_of(truth)
        with self.timer.part("generator"), self._autocast():
            predicted = self.generator.edge(assemble_edge(gray, known, mask))
        predicted = losses.at_least_float32(predicted)
        # Whole, unmasked gray beside the raw output, in real and fake.
        real, fake = edge_pair(gray, edges), edge_pair(gray, predicted)
        with self.timer.part("discriminator"):
            real_maps, fake_maps = self._judged("edge_discriminator", real, fake)
            adversarial = losses.adversarial_loss(fake_maps[-1], kind=self.settings.gan, global_batch=global_batch)
            matching = losses.feature_matching_loss(fake_maps, real_maps, global_batch=global_batch)
            total = EDGE_WEIGHTS["adversarial"] * adversarial + self._weight("feature_matching") * matching
            self._backward(total, "edge_generator", keep_graph=True)
            metrics = self._discriminate("edge_discriminator", real_maps[-1], fake_maps[-1], global_batch)
        terms = {"adversarial": adversarial, "feature_matching": matching, "generator": total}
        return metrics | {name: value.detach() for name, value in terms.items()}

    def _picture_step(
        self, truth: Tensor, mask: Tensor, edges: Tensor, known: Tensor, *, global_batch: int, hole_ratio: Tensor
    ) -> Metrics:
        with self.timer.part("generator"), self._autocast():
            if self.phase == 3:
                with torch.no_grad():
                    edges = self.generator.edges(gray_of(truth), known, mask)
            prediction = self.generator.picture(truth, edges, mask)
        terms = {
            "l1": losses.l1_loss(
                prediction,
                truth,
                mask,
                mode="hole_ratio",
                global_batch=global_batch,
                hole_ratio=hole_ratio,
                min_hole_ratio=self.settings.min_hole_ratio,
            )
        }
        terms |= self._vgg_terms(prediction, truth, global_batch, style=style_views(prediction, truth, mask))
        with self.timer.part("discriminator"):
            real_maps, fake_maps = self._judged("discriminator", truth, prediction)
            terms["adversarial"] = losses.adversarial_loss(
                fake_maps[-1], kind=self.settings.gan, global_batch=global_batch
            )
            metrics = self._descend(terms, "generator", keep_graph=True)
            return metrics | self._discriminate("discriminator", real_maps[-1], fake_maps[-1], global_batch)

    def _judged(self, name: str, real: Tensor, fake: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        with self._autocast():
            return self._networks[name](real), self._networks[name](fake)

    def _discriminate(self, name: str, real: Tensor, fake: Tensor, global_batch: int) -> Metrics:
        loss = losses.discriminator_loss(real, fake, kind=self.settings.gan, global_batch=global_batch)
        self._backward(loss, name)
        return {
            "discriminator": loss.detach(),
            "d_real": losses.mean_logit(real, global_batch=global_batch),
            "d_fake": losses.mean_logit(fake, global_batch=global_batch),
        }


METHOD = EdgeConnectTraining
