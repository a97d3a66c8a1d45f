"""LaMa's terms: squares of maps, labels by the hole at the map's size, the gradient penalty R1."""

from __future__ import annotations

import math

import pytest
import torch

from isnet.methods.lama import loss


def test_maps_are_averaged_and_features_summed() -> None:
    fake, real = (
        [torch.full((2, 3, 4, 4), 3.0), torch.ones(2, 5, 2, 2)],
        [torch.ones(2, 3, 4, 4), torch.ones(2, 5, 2, 2)],
    )
    assert loss.feature_matching_loss(fake, real, global_batch=2).item() == pytest.approx(4 / 2)
    assert loss.perceptual_loss(fake, real, global_batch=2).item() == pytest.approx(4)
    # D's maps of the truth get no gradient.
    leaf = torch.ones(1, 2, 2, 2, requires_grad=True)
    loss.feature_matching_loss([torch.zeros(1, 2, 2, 2, requires_grad=True)], [leaf], global_batch=1).backward()
    assert leaf.grad is None


def test_a_cell_is_fake_where_its_sample_of_the_hole_is() -> None:
    mask = torch.ones(1, 1, 4, 4)
    mask[:, :, :2, :2] = 0
    sure = 50.0
    # Fake in the hole's cell, real in the others: no loss. The opposite costs as much as D is sure.
    logits = torch.tensor([[[[-sure, sure], [sure, sure]]]])
    real = torch.full((1, 1, 2, 2), sure)
    assert loss.discriminator_loss(real, logits, mask, global_batch=1).item() == pytest.approx(0, abs=1e-6)
    assert loss.discriminator_loss(real, -logits, mask, global_batch=1).item() == pytest.approx(sure)
    undecided = loss.discriminator_loss(0 * real, 0 * logits, mask, global_batch=1)
    assert undecided.item() == pytest.approx(2 * math.log(2))
    # A hole that no sample point meets makes all of it real.
    mask = torch.ones(1, 1, 4, 4)
    mask[:, :, 1, 1] = 0
    assert loss.discriminator_loss(real, real, mask, global_batch=1).item() == pytest.approx(0, abs=1e-6)


def test_r1_is_the_squared_gradient_and_has_a_gradient_itself() -> None:
    weight = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    truth = torch.rand(2, 3, 2, 2).requires_grad_()
    # D is linear, so its gradient is the weight at each of four pixels of two samples.
    penalty = loss.r1_penalty((truth * weight.view(1, 3, 1, 1)).sum((1, 2, 3)), truth, global_batch=2)
    assert penalty.item() == pytest.approx(4 * 14)
    penalty.backward()
    torch.testing.assert_close(weight.grad, 8 * weight.detach())
