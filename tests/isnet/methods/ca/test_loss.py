"""CA's terms: the discount of a box, known pixels, critics and their penalty of second order."""

from __future__ import annotations

import pytest
import torch
from method_recipe import assert_as_recorded, expected, hole, picture
from torch import Tensor

from isnet.methods.ca import loss

MASK, TRUTH = 1 - hole(16, 24, batch=2), picture(16, 24, batch=2)


def test_the_discount_is_as_recorded() -> None:
    recorded = expected("step_ca")["spatial_discount"]
    assert_as_recorded(loss.spatial_discount(128, like=torch.zeros((), dtype=torch.float64)), recorded)


def test_a_discount_weights_l1_and_none_does_not() -> None:
    truth = torch.zeros(2, 3, 8, 8)
    discount = loss.spatial_discount(8, gamma=0.5, like=truth)
    assert loss.discounted_l1_loss(truth + 2, truth, global_batch=2).item() == pytest.approx(2)
    found = loss.discounted_l1_loss(truth + 2, truth, discount, global_batch=2)
    assert found.item() == pytest.approx(2 * discount.mean().item())


def test_known_pixels_are_divided_by_their_share_or_not() -> None:
    share = MASK.mean()

    def known(form: loss.Form) -> float:
        return loss.known_loss(TRUTH + 2, TRUTH, MASK, form=form, valid_ratio=share, global_batch=2).item()

    assert known("authors") == pytest.approx(2)
    assert known("released") == pytest.approx(2 * share.item())


def test_critics_part_real_from_fake_and_the_generator_joins_them() -> None:
    real, fake = torch.tensor([[3.0], [1.0]]), torch.tensor([[-1.0], [0.0]])
    assert loss.critic_loss(real, fake, global_batch=2).item() == pytest.approx(-2.5)
    assert loss.generator_loss(fake, global_batch=2).item() == pytest.approx(0.5)


def test_the_penalty_is_of_the_norm_between_truth_and_fake_and_of_second_order() -> None:
    weight = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)

    def critic(image: Tensor) -> Tensor:
        return (weight * image.square()).sum((1, 2, 3), keepdim=False)[:, None]

    real, fake = torch.full((2, 1, 1, 1), 3.0).double(), torch.full((2, 1, 1, 1), 1.0).double()
    share = torch.tensor([0.5, 1.0]).double()
    # The gradient is 2·weight·x at x = 2 and x = 3.
    penalty = loss.gradient_penalty(critic, real, fake, share, global_batch=2)
    assert penalty.item() == pytest.approx(((8 - 1) ** 2 + (12 - 1) ** 2) / 2)
    penalty.backward()
    assert weight.grad is not None
    assert weight.grad.item() == pytest.approx(7 * 4 + 11 * 6)


def test_the_authors_penalty_counts_the_hole_and_stands_one_without() -> None:
    def critic(image: Tensor) -> Tensor:
        return image.square().sum((1, 2, 3))[:, None]

    torch.manual_seed(0)
    real, fake, share = TRUTH.requires_grad_(), torch.rand_like(TRUTH), torch.tensor([0.3, 0.8])
    between = share.view(-1, 1, 1, 1) * real + (1 - share.view(-1, 1, 1, 1)) * fake
    norms = (2 * between * (1 - MASK)).flatten(1).norm(dim=1)
    found = loss.gradient_penalty(critic, real, fake, share, MASK, global_batch=2)
    torch.testing.assert_close(found, ((norms - 1) ** 2).mean())
    # No hole: the norm is 0, the penalty 1, and no gradient is NaN.
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    penalty = loss.gradient_penalty(
        lambda image: weight * critic(image), real, fake, share, torch.ones_like(MASK), global_batch=2
    )
    penalty.backward()
    assert penalty.item() == pytest.approx(1)
    assert weight.grad is not None
    assert weight.grad.item() == 0
    assert real.grad is None
