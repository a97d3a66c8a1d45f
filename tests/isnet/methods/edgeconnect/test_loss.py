"""EdgeConnect's inputs of discriminator, style loss and third stage."""

from __future__ import annotations

import torch
from method_recipe import edges, hole, picture

from isnet.methods.edgeconnect import loss

MASK = 1 - hole(16, 24)


def test_edges_are_joined_around_the_hole_or_replaced() -> None:
    known, predicted = edges(16, 24), torch.full_like(MASK, 0.3)
    merged = loss.joined_edges(predicted, known, MASK)
    assert torch.equal(merged[MASK == 1], known[MASK == 1])
    assert (merged[MASK == 0] == 0.3).all()
    assert torch.equal(loss.joined_edges(predicted, known, MASK, known="released"), predicted)


def test_style_sees_the_hole_alone() -> None:
    truth = picture(16, 24)
    seen = loss.style_views(truth + 1, truth, MASK)
    for view, whole in zip(seen, (truth + 1, truth), strict=True):
        assert torch.equal(view, torch.where(MASK == 0, whole, 0.0))


def test_a_pair_is_gray_and_edges() -> None:
    pair = loss.edge_pair(MASK * 2, MASK)
    assert pair.shape == (1, 2, 16, 24)
    assert torch.equal(pair[:, :1], MASK * 2)
