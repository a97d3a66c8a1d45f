"""GLCIC's terms, in the paper's and the released form."""

from __future__ import annotations

import pytest
import torch
from method_recipe import hole, picture

from isnet.methods.glcic import loss

MASK, TRUTH = 1 - hole(16, 24, batch=2), picture(16, 24, batch=2)


def test_completion_counts_the_hole_and_divides_by_all_pixels() -> None:
    share = 1 - MASK.mean().item()
    assert loss.completion_loss(TRUTH + 3, TRUTH, MASK, global_batch=2).item() == pytest.approx(9 * share)
    changed = torch.where(MASK == 1, 9.0, TRUTH)
    assert loss.completion_loss(changed, TRUTH, MASK, global_batch=2).item() == 0
    parts = [
        loss.completion_loss(TRUTH[i : i + 1] * 2, TRUTH[i : i + 1], MASK[i : i + 1], global_batch=2) for i in (0, 1)
    ]
    torch.testing.assert_close(sum(parts), loss.completion_loss(TRUTH * 2, TRUTH, MASK, global_batch=2))


def test_the_discriminator_judges_composites_and_its_loss_keeps_its_scale() -> None:
    own, raw = torch.tensor(1.4), TRUTH + 1
    judged = loss.judged(raw, TRUTH, MASK)
    assert torch.equal(judged, torch.where(MASK == 1, TRUTH, raw))
    assert loss.judged(raw, TRUTH, MASK, form="released") is raw
    assert loss.joint_discriminator_loss(own) is own
    assert loss.joint_discriminator_loss(own, form="released").item() == pytest.approx(4e-4 * 1.4)
    assert loss.joint_generator_loss(torch.tensor(2.0), own).item() == pytest.approx(1 + 2e-4 * 1.4)
