"""Gives a network another one's weights and function.

Weights come raw, with the vectors u and v of spectral norm, or folded, as models are exported. A folded weight for a
normalised layer becomes its raw weight, with vectors that make σ 1 (`SpectralLayer.set_folded_vectors`); a raw weight
for a plain layer is divided by its σ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isnet.spectral_norm import SpectralLayer, weight_matrix


@dataclass(frozen=True)
class WeightMatch:
    """Names of a network's tensors and those given, compared."""

    fitting: tuple[str, ...]
    missing: tuple[str, ...]  # the network needs them, and none were given
    surplus: tuple[str, ...]  # given, and the network has none of that name
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]  # (name, shape given, shape needed)

    def __str__(self) -> str:
        lines = [f"{name} is missing" for name in self.missing] + [f"{name} is surplus" for name in self.surplus]
        lines += [f"{name} has shape {shape}, need {needed}" for name, shape, needed in self.mismatched]
        more = f" and {len(lines) - 2} more" if len(lines) > 2 else ""
        return ", ".join(lines[:2]) + more


def match_weights(network: nn.Module, tensors: Mapping[str, Tensor]) -> WeightMatch:
    """Compares names and shapes; works on the meta device."""
    needed = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    offered = {name: tuple(value.shape) for name, value in tensors.items()}
    return WeightMatch(
        tuple(name for name in needed if offered.get(name) == needed[name]),
        # Vectors are computed where a weight comes without, and folded where a layer has none.
        tuple(name for name in needed if name not in offered and not _is_vector_of(name, offered)),
        tuple(name for name in offered if name not in needed and not _is_vector_of(name, needed)),
        tuple((n, offered[n], needed[n]) for n in needed if n in offered and offered[n] != needed[n]),
    )


@torch.no_grad()
def load_weights(network: nn.Module, tensors: Mapping[str, Tensor]) -> WeightMatch:
    """Copies what fits into `network`."""
    match = match_weights(network, tensors)
    state = network.state_dict()
    for name in match.fitting:
        state[name].copy_(tensors[name])
    for path, layer in network.named_modules():
        if f"{path}.weight" not in match.fitting:
            continue
        vectors = [tensors.get(f"{path}.{kind}") for kind in "uv"]
        if isinstance(layer, SpectralLayer) and vectors[0] is None:
            layer.set_folded_vectors()
        elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and not isinstance(layer, SpectralLayer):
            u, v = vectors
            if u is not None and v is not None:
                matrix = weight_matrix(layer)
                layer.weight.div_(u.to(matrix) @ matrix @ v.to(matrix))
    return match


def _is_vector_of(name: str, others: Mapping[str, object]) -> bool:
    path, _, kind = name.rpartition(".")
    return kind in ("u", "v") and f"{path}.weight" in others
