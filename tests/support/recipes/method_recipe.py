"""Networks under weights made by formula, pictures made by formula, and recorded numbers to compare with.

`tests/isnet/methods/parity/` holds the numbers: made in float64 with weights drawn from numpy by position.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from isnet.layers import num_parameters
from isnet.spectral_norm import SpectralLayer

PARITY = Path(__file__).parents[2] / "isnet" / "methods" / "parity"
GLCIC_MEAN = torch.tensor([0.5061, 0.4254, 0.3828], dtype=torch.float64)


def expected(name: str) -> dict[str, Any]:
    return json.loads((PARITY / f"{name}.json").read_text())


def tensor_of(number: int, entry: dict[str, Any], gain: float, *, released_pconv: bool) -> Tensor:
    """Tensor number i of a file, by its kind."""
    n = np.random.RandomState(number).standard_normal(entry["shape"])
    fan_in = n.size / n.shape[0]
    values = {
        "weight": lambda: n * math.sqrt(fan_in) if released_pconv else n * gain / math.sqrt(fan_in),
        "spectral": lambda: n,
        **dict.fromkeys(("bias", "norm_bias", "running_mean"), lambda: 0.1 * n),
        **dict.fromkeys(("norm_weight", "running_var"), lambda: 1 + 0.1 * n),
    }
    return torch.from_numpy(values[entry["kind"]]())


def kind_of(module: nn.Module, name: str) -> str:
    if isinstance(module, nn.BatchNorm2d):
        return {"weight": "norm_weight", "bias": "norm_bias"}.get(name, name)
    if name == "weight" and isinstance(module, SpectralLayer):
        return "spectral"
    return name


def fill(network: nn.Module, recorded: dict[str, Any], *, whole: bool = True) -> dict[str, str]:
    """Gives the network the weights of the recipe; each tensor takes the next of its kind and shape.

    Returns the recorded name of each parameter. `whole=False` is for a network that ends earlier than the recorded one.
    """
    network.double().eval()
    entries = list(enumerate(recorded["tensors"]))
    # EdgeConnect's first convolution stands twice; the later one has the values.
    if any(entry["key"] == "features.0.weight" for _, entry in entries) and "conv1.0.weight" in entries[0][1]["key"]:
        entries = [(i, entry) for i, entry in entries if entry["key"] != "conv1.0.weight"]
    # The deepest three levels of PConv's decoder stand in another order than they run.
    entries.sort(key=lambda item: -int(item[1]["key"][4]) if item[1]["key"].startswith("dec_") else -99)
    if whole:
        assert num_parameters(network) == recorded["parameters"] + recorded["frozen"] * (recorded["parameters"] == 0)
    released = "n * sqrt(fan-in)" in recorded.get("scale", "")
    keys = {}
    for path, module in network.named_modules():
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for name, tensor in own:
            if name in ("u", "v", "num_batches_tracked"):
                continue
            wanted = (kind_of(module, name), list(tensor.shape))
            at = next(at for at, (_, entry) in enumerate(entries) if (entry["kind"], entry["shape"]) == wanted)
            number, entry = entries.pop(at)
            with torch.no_grad():
                tensor.copy_(tensor_of(number, entry, recorded.get("gain", 1.0), released_pconv=released))
            keys[f"{path}.{name}".lstrip(".")] = entry["key"]
        if isinstance(module, SpectralLayer):
            module.set_exact_vectors()
    assert not (entries and whole)
    return keys


def filled(network: nn.Module, recorded: dict[str, Any]) -> nn.Module:
    fill(network, recorded)
    return network


def picture(height: int, width: int, *, batch: int = 1) -> Tensor:
    b, c, y, x = torch.meshgrid(
        *(torch.arange(size, dtype=torch.float64) for size in (batch, 3, height, width)), indexing="ij"
    )
    return 0.5 + 0.5 * torch.sin(0.11 * (c + 1) * x + 0.07 * y + 0.9 * b)


def hole(height: int, width: int, *, batch: int = 1) -> Tensor:
    mask = torch.zeros(batch, 1, height, width, dtype=torch.float64)
    mask[0::2, :, height // 4 : height // 2, width // 3 : 2 * width // 3] = 1
    mask[1::2, :, height // 2 : 3 * height // 4, width // 6 : width // 2] = 1
    return mask


def edges(height: int, width: int, *, batch: int = 1) -> Tensor:
    b, y, x = torch.meshgrid(*(torch.arange(size) for size in (batch, height, width)), indexing="ij")
    return ((3 * x + 5 * y + 7 * b) % 17 == 0).double()[:, None]


def assert_as_recorded(output: Tensor, recorded: dict[str, Any]) -> None:
    assert list(output.shape) == recorded["shape"]
    assert len(recorded["index"]) >= 8
    scale = max(1.0, abs(recorded["max"]), abs(recorded["min"]))
    values = output.flatten()[torch.tensor(recorded["index"])]
    torch.testing.assert_close(values, torch.tensor(recorded["value"], dtype=torch.float64), rtol=0, atol=1e-9 * scale)
    for name, measured in [("mean", output.mean()), ("min", output.min()), ("max", output.max())]:
        assert measured.item() == pytest.approx(recorded[name], abs=1e-9 * scale)
