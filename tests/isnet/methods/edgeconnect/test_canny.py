"""Canny's edges, with and without a mask."""

from __future__ import annotations

import numpy as np
import pytest
from method_recipe import expected

from isnet.methods.edgeconnect.canny import NO_EDGES, RANDOM_SIGMA, canny_edges

RECORDED = expected("canny")


def scene() -> tuple[np.ndarray, np.ndarray]:
    """A disc, a box and a corner on a slow wave; and a mask, False on a box."""
    y, x = np.mgrid[0:96, 0:128].astype(float)
    gray = 0.35 + 0.15 * np.sin(0.05 * x) + 0.1 * np.cos(0.04 * y) + 0.4 * ((x - 40) ** 2 + (y - 48) ** 2 < 26**2)
    gray += 0.3 * ((x > 80) & (x < 112) & (y > 20) & (y < 70)) - 0.25 * (x + y > 190)
    mask = np.ones((96, 128), bool)
    mask[24:48, 42:85] = False
    return gray, mask


@pytest.mark.parametrize("case", RECORDED["cases"], ids=lambda case: f"{case['sigma']}, masked {case['masked']}")
def test_every_edge_pixel_is_as_recorded(case: dict) -> None:
    gray, mask = scene()
    edges = canny_edges(gray, mask if case["masked"] else None, sigma=case["sigma"])
    assert edges.dtype == bool
    assert np.flatnonzero(edges).tolist() == case["flat_index_of_edge_pixels"]


def test_nothing_of_the_hole_reaches_the_edges() -> None:
    gray, mask = scene()
    edges = canny_edges(gray, mask)
    gray[~mask] = np.random.default_rng(0).random((~mask).sum())
    assert np.array_equal(canny_edges(gray, mask), edges)
    assert not np.array_equal(canny_edges(gray, None) & mask, edges)
    assert not canny_edges(gray, np.zeros_like(mask)).any()


def test_a_sigma_can_be_drawn_or_none() -> None:
    gray, mask = scene()
    assert not canny_edges(gray, mask, sigma=NO_EDGES).any()
    drawn = [canny_edges(gray, mask, sigma=RANDOM_SIGMA, rng=np.random.default_rng(seed)) for seed in range(20)]
    fixed = [canny_edges(gray, mask, sigma=sigma) for sigma in (1, 2, 3, 4)]
    found = {next(i for i, edges in enumerate(fixed) if np.array_equal(edges, one)) for one in drawn}
    assert found == {0, 1, 2, 3}


def test_float32_moves_no_edge_by_its_own_arithmetic() -> None:
    gray, mask = scene()
    single = gray.astype(np.float32)
    assert np.array_equal(canny_edges(single, mask), canny_edges(single.astype(np.float64), mask))
