"""The soft-mask GAN: labels by pixel, in the paper's and the released form."""

from __future__ import annotations

import pytest
import torch
from method_recipe import assert_as_recorded, expected, hole

from isnet.methods.aot_gan import loss

MASK = 1 - hole(64, 96, batch=2)
RATIO = (1 - MASK).mean()


def test_the_blurred_hole_is_as_recorded() -> None:
    assert_as_recorded(loss.soft_mask(1 - MASK), expected("step_aotgan")["soft_mask"])


@pytest.mark.parametrize(("labels", "real"), [("paper", 1.0), ("released", 0.0)])
def test_a_discriminator_that_gives_the_labels_has_no_loss(labels: loss.Labels, real: float) -> None:
    blurred = loss.soft_mask(MASK if labels == "paper" else 1 - MASK)
    truth = torch.full_like(MASK, real)
    assert loss.discriminator_loss(truth, blurred, MASK, labels=labels, global_batch=2).item() < 1e-12
    wrong = loss.discriminator_loss(1 - truth, blurred, MASK, labels=labels, global_batch=2)
    assert wrong.item() == pytest.approx(1)


def test_the_generator_is_asked_for_real_in_the_hole_alone() -> None:
    def adversarial(logits: torch.Tensor, labels: loss.Labels) -> float:
        return loss.adversarial_loss(logits, MASK, labels=labels, global_batch=2, hole_ratio=RATIO).item()

    # Real in the hole, anything around it: done in the paper's form, not in the released one.
    logits = torch.where(MASK == 0, 1.0, -3.0).double()
    assert adversarial(logits, "paper") == pytest.approx(0)
    assert adversarial(logits, "released") > 1
    assert adversarial(torch.zeros_like(MASK), "paper") == pytest.approx(1)
    empty = loss.adversarial_loss(logits, torch.ones_like(MASK), global_batch=2, hole_ratio=torch.tensor(0.0).double())
    assert empty.item() == 0


def test_micro_batches_add_up() -> None:
    torch.manual_seed(0)
    real, fake = torch.randn(2, 2, 1, 8, 12).double()
    for labels in ("paper", "released"):
        whole = [
            loss.discriminator_loss(real, fake, MASK, labels=labels, global_batch=2),
            loss.adversarial_loss(fake, MASK, labels=labels, global_batch=2, hole_ratio=RATIO),
        ]
        parts = [
            torch.stack(
                [
                    loss.discriminator_loss(real[i], fake[i], MASK[i], labels=labels, global_batch=2),
                    loss.adversarial_loss(fake[i], MASK[i], labels=labels, global_batch=2, hole_ratio=RATIO),
                ]
            )
            for i in (slice(0, 1), slice(1, 2))
        ]
        torch.testing.assert_close(sum(parts), torch.stack(whole))
