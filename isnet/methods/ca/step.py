"""Training step of CA.

Two critics with gradient penalties move in each step, the generator in every fifth.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from isnet.losses import composite
from isnet.methods.ca import loss
from isnet.methods.ca.generator import CAFiller
from isnet.methods.ca.networks import Critic
from isnet.methods.local_crop import crops, hole_corners
from isnet.methods.method import Method, MethodSettings
from isnet.training.players import Metrics, MicroBatch


class CATraining(Method):
    """Both stages of G, and two critics with one optimiser.

    A micro-batch is image, mask, and two numbers a sample: shares of the truth in the penalties of both critics.
    """

    generator: CAFiller

    def __init__(
        self,
        generator: CAFiller,
        settings: MethodSettings,
        *,
        perceptual: nn.Module | None,
        device: torch.device | str,
    ) -> None:
        # A box of 128 in 256 pixels, as released; the authors' local critic ends in twice as many channels.
        self.side = settings.size // 2
        width, last = settings.discriminator_width, 4 if settings.released else 8
        critics = {
            "local": Critic(size=self.side, width=width, last=last),
            "whole": Critic(size=settings.size, width=width),
        }
        networks = {"generator": generator, "discriminator": nn.ModuleDict(critics)}
        super().__init__(networks, settings, device=device)
        self.critics = critics
        self.form: loss.Form = "released" if settings.released else "authors"

    def example_batch(self, count: int, size: int) -> MicroBatch:
        """Squares of `size` pixels, and shares of the truth."""
        return *super().example_batch(count, size), torch.zeros(count, 2)

    def phase_starts(self) -> list[int]:
        """A step that moves the generator, too."""
        return [self.settings.critic_steps - 1]

    @property
    def _moves_generator(self) -> bool:
        return (self.done + 1) % self.settings.critic_steps == 0

    def _moving(self) -> list[str]:
        return ["discriminator", *(["generator"] if self._moves_generator else [])]

    def _needs_hole_ratio(self) -> bool:
        return True

    def _accumulate(self, batch: MicroBatch, global_batch: int, hole_ratio: Tensor | None) -> Metrics:
        truth, mask, shares = batch
        assert hole_ratio is not None
        image = 2 * truth - 1
        with self.timer.part("generator"), torch.set_grad_enabled(self._moves_generator):
            stages = self.generator.both(truth, mask)
        corners = hole_corners(mask, self.side)
        completed = [composite(stage, image, mask) for stage in stages]
        # Pictures and masks that each critic sees: of the box, and whole.
        views = {
            "local": [crops(x, corners, self.side) for x in (image, completed[1], mask)],
            "whole": [image, completed[1], mask],
        }
        metrics: Metrics = {}
        if self._moves_generator:
            valid_ratio = 1 - hole_ratio
            discount = loss.spatial_discount(self.side, like=image)
            boxes = [crops(stage, corners, self.side) for stage in completed]
            terms = {"l1": image.new_zeros(()), "known": image.new_zeros(())}
            for factor, box, stage in zip((loss.COARSE, 1.0), boxes, stages, strict=True):
                terms["l1"] = terms["l1"] + factor * loss.discounted_l1_loss(
                    box, views["local"][0], discount, global_batch=global_batch
                )
                terms["known"] = terms["known"] + factor * loss.known_loss(
                    stage, image, mask, form=self.form, valid_ratio=valid_ratio, global_batch=global_batch
                )
            judgements = [
                loss.generator_loss(critic(views[name][1]), global_batch=global_batch)
                for name, critic in self.critics.items()
            ]
            terms["adversarial"] = torch.stack(judgements).sum()
            with self.timer.part("generator"):
                metrics = self._descend(terms, "generator")
        with self.timer.part("discriminator"):
            return metrics | self._move_critics(views, shares, global_batch)

    def _move_critics(self, views: dict[str, list[Tensor]], shares: Tensor, global_batch: int) -> Metrics:
        distances, penalties = [], []
        for (name, critic), share in zip(self.critics.items(), shares.unbind(1), strict=True):
            real, fake, mask = views[name]
            fake = fake.detach()
            distances.append(loss.critic_loss(critic(real), critic(fake), global_batch=global_batch))
            in_hole = mask if self.form == "authors" else None
            penalties.append(loss.gradient_penalty(critic, real, fake, share, in_hole, global_batch=global_batch))
        distance, penalty = torch.stack(distances).sum(), torch.stack(penalties).sum()
        total = distance + loss.PENALTY * penalty
        self._backward(total, "discriminator")
        return {"discriminator": total.detach(), "wgan": distance.detach(), "gradient_penalty": penalty.detach()}


METHOD = CATraining
