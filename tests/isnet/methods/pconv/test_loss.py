"""PConv's terms: means over all pixels, VGG16 of output and composite, variation in the hole."""

from __future__ import annotations

import pytest
import torch
from method_recipe import hole, picture
from torch import Tensor

from isnet import losses
from isnet.methods.pconv import loss

MASK = 1 - hole(16, 24, batch=2)
TRUTH = picture(16, 24, batch=2)


def test_both_sides_of_the_mask_are_divided_by_all_pixels() -> None:
    share = MASK.mean().item()
    shifted = TRUTH + 2
    assert loss.valid_loss(shifted, TRUTH, MASK, global_batch=2).item() == pytest.approx(2 * share)
    assert loss.hole_loss(shifted, TRUTH, MASK, global_batch=2).item() == pytest.approx(2 * (1 - share))


def test_features_of_output_and_composite_are_added() -> None:
    torch.manual_seed(0)
    fake, composite, real = ({"pool1": torch.rand(2, 4, 3, 3)} for _ in range(3))
    for name in ("perceptual_loss", "style_loss"):
        one = getattr(losses, name)
        both = getattr(loss, name)(fake, composite, real, ["pool1"], global_batch=2)
        expected = one(fake, real, ["pool1"], global_batch=2) + one(composite, real, ["pool1"], global_batch=2)
        torch.testing.assert_close(both, expected)


def variation(picture: Tensor, mask: Tensor, over: loss.Variation) -> float:
    return loss.total_variation_loss(picture, mask, over=over, global_batch=len(picture)).item()


def test_variation_counts_pairs_in_the_grown_hole() -> None:
    # One bright pixel: four pairs of neighbours, each with difference 1 in three channels.
    mask = torch.ones(1, 1, 8, 8)
    mask[:, :, 3, 3] = 0
    dot = torch.zeros(1, 3, 8, 8)
    dot[:, :, 3, 3] = 1
    assert variation(dot, mask, "hole") == pytest.approx(4 / (8 * 7))
    assert variation(dot, mask, "released") == pytest.approx(4 / (8 * 7))
    # At the border of the grown hole only pairs inside it count; beyond it none does.
    assert variation(dot.roll(1, 3), mask, "hole") == pytest.approx(3 / (8 * 7))
    assert variation(dot.roll(3, 3), mask, "hole") == 0
    assert variation(dot.roll(3, 3), mask, "released") == pytest.approx(4 / (8 * 7))
    # All hole: both forms are one.
    noise, empty = torch.rand(2, 3, 8, 8), torch.zeros(2, 1, 8, 8)
    assert variation(noise, empty, "hole") == pytest.approx(variation(noise, empty, "released"))


def test_micro_batches_add_up() -> None:
    torch.manual_seed(0)
    fake = torch.rand_like(TRUTH)
    for term in (loss.valid_loss, loss.hole_loss):
        parts = [term(fake[i : i + 1], TRUTH[i : i + 1], MASK[i : i + 1], global_batch=2) for i in range(2)]
        torch.testing.assert_close(sum(parts), term(fake, TRUTH, MASK, global_batch=2))
    parts = [loss.total_variation_loss(fake[i : i + 1], MASK[i : i + 1], global_batch=2) for i in range(2)]
    torch.testing.assert_close(sum(parts), loss.total_variation_loss(fake, MASK, global_batch=2))
