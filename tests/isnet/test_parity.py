"""The author's networks, under weights made by formula, give the outputs recorded from them to 1e-9."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import isnet
from isnet.formats.author import apply_author_tensors

PARITY = Path(__file__).parent / "parity"
NETWORKS = {
    "isnet_b1": {"name": "isnet", "blocks": 1},
    "isnet_b2": {"name": "isnet", "blocks": 2},
    "isnet_b3": {"name": "isnet", "blocks": 3},
    "isnet_b4": {"name": "isnet", "blocks": 4},
    "base": {"name": "base"},
    "base_ff": {"name": "base_ff"},
    "unet_like": {"name": "unet_like"},
    "discriminator": {"name": "discriminator"},
}


def tensors_by_formula(expected: dict[str, Any]) -> dict[str, Tensor]:
    """The recipe: normal numbers seeded by position, scaled by kind (bias, plain weight, normalised weight)."""
    tensors = {}
    for i, entry in enumerate(expected["tensors"]):
        value = np.random.RandomState(i).standard_normal(entry["shape"])
        if entry["key"].endswith("bias"):
            value *= 0.1
        elif entry["spectral_norm"]:
            matrix = value.reshape(len(value), -1)
            value /= np.sqrt(np.linalg.eigvalsh(matrix @ matrix.T)[-1])
        else:
            value /= np.sqrt(value.size / value.shape[0])
        tensors[entry["key"]] = torch.from_numpy(value)
    return tensors


def picture() -> tuple[Tensor, Tensor]:
    y, x = torch.meshgrid(torch.arange(64, dtype=torch.float64), torch.arange(96, dtype=torch.float64), indexing="ij")
    image_3HW = torch.stack([0.5 + 0.5 * torch.sin(0.11 * (c + 1) * x + 0.07 * y) for c in range(3)])
    mask_B1HW = torch.ones(1, 1, 64, 96, dtype=torch.float64)
    mask_B1HW[..., 16:32, 32:64] = 0
    return image_3HW[None], mask_B1HW


def assert_as_recorded(output: Tensor, recorded: dict[str, Any]) -> None:
    assert list(output.shape) == recorded["shape"]
    assert len(recorded["index"]) >= 8
    values = output.flatten()[torch.tensor(recorded["index"])]
    torch.testing.assert_close(values, torch.tensor(recorded["value"], dtype=torch.float64), rtol=0, atol=1e-9)
    for name, measured in [
        ("mean", output.mean()),
        ("std", output.std()),
        ("min", output.min()),
        ("max", output.max()),
    ]:
        assert abs(measured.item() - recorded[name]) < 1e-9, name


@pytest.mark.parametrize("file", NETWORKS)
@torch.no_grad()
def test_output_and_parameter_count_equal_the_authors(file: str) -> None:
    expected = json.loads((PARITY / f"{file}.json").read_text())
    network: nn.Module = isnet.build(**NETWORKS[file]).double().eval()
    assert sum(p.numel() for p in network.parameters()) == expected["parameters"]

    report = apply_author_tensors(network, tensors_by_formula(expected))
    assert report.fits, str(report)

    image_B3HW, mask_B1HW = picture()
    if file == "discriminator":
        maps = network(image_B3HW)
        assert len(maps) == 5
        assert_as_recorded(maps[-1], expected["output"])
        for found, recorded in zip(maps, expected["features"], strict=True):
            assert_as_recorded(found, recorded)
    else:
        output = network(image_B3HW, mask_B1HW)
        assert output.dtype == torch.float64
        assert_as_recorded(output, expected["output"])
