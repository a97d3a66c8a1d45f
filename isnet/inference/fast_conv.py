"""Faster convolutions for repeated inference on the CPU.

    fast = prepare_for_inference(network)        # no gradients; within 1e-5 of network's output

Spectral norm is folded in. Each weight is converted once to oneDNN's memory order, instead of at every call, and the
activation is computed while the result is still in registers. torch.compile's "freezing" emits the same operators,
after a compile time. Only the folding is done on other devices than the CPU, in other types than float32 and bfloat16,
and where torch is built without oneDNN.
Not covered: training; moving or saving the result (prepare it again instead).
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from isnet.spectral_norm import fold_spectral_norm

Network = TypeVar("Network", bound=nn.Module)

# A hint for oneDNN's choice of memory order; any size runs.
_TYPICAL_SIDE = 64


class PackedConv2d(nn.Module):
    """Convolution with its weight in oneDNN's order, without gradients."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        assert isinstance(conv.padding, tuple), "padding by name is not used here"
        self._padding, self._stride, self._dilation = list(conv.padding), list(conv.stride), list(conv.dilation)
        self._groups = conv.groups
        self._bias = None if conv.bias is None else conv.bias.detach()
        shape = [1, conv.in_channels, _TYPICAL_SIDE, _TYPICAL_SIDE]
        self._weight = torch.ops.mkldnn._reorder_convolution_weight(
            conv.weight.detach(), self._padding, self._stride, self._dilation, self._groups, shape
        )

    def forward(self, x: Tensor) -> Tensor:
        """Computes conv(x)."""
        return self.activated(x, "none", [])

    def activated(self, x: Tensor, activation: str, scalars: list[float]) -> Tensor:
        """Computes σ(conv(x)) in one call.

        `activation` is oneDNN's name of σ: none, tanh, or leaky_relu with its slope in `scalars`.
        """
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self._weight, self._bias, *self._geometry(), activation, scalars, ""
        )
        return result

    def added(self, x: Tensor, other: Tensor) -> Tensor:
        """Computes conv(x) + other in one call."""
        result: Tensor = torch.ops.mkldnn._convolution_pointwise.binary(
            x, other, self._weight, self._bias, *self._geometry(), "add", 1.0, None, [], ""
        )
        return result

    def _geometry(self) -> tuple[list[int], list[int], list[int], int]:
        return self._padding, self._stride, self._dilation, self._groups


def prepare_for_inference(network: Network) -> Network:
    """Copies `network` for inference: frozen, in evaluation mode.

    Device and type stay the same.
    """
    prepared = fold_spectral_norm(network).requires_grad_(False).eval()
    # oneDNN packs weights on the CPU in two types.
    kinds = {(weight.device.type, weight.dtype) for weight in prepared.parameters()}
    if not kinds <= {("cpu", torch.float32), ("cpu", torch.bfloat16)} or not _can_pack():
        return prepared
    for parent in list(prepared.modules()):
        for name, child in list(parent.named_children()):
            # Exactly Conv2d with zeros around it: a subclass, or other padding, computes something else.
            if type(child) is nn.Conv2d and child.padding_mode == "zeros":
                setattr(parent, name, PackedConv2d(child))
    return prepared


def _can_pack() -> bool:
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
