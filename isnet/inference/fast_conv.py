"""A generator made ready to run many times on the CPU: less work a picture, the same function.

    fast = prepare_for_inference(network)        # no gradients; within 1e-5 of network's output

Spectral norm is folded in; each convolution's weight is brought once into the order that oneDNN computes with, instead
of at every call, and its activation happens while the result is still in registers. These are the operators that
torch.compile's own "freezing" emits, without its compile time. Elsewhere than on the CPU, in other types than float32
and bfloat16, or where torch is built without oneDNN, only the folding is done.
Not covered: training; moving or saving the result (prepare it again instead).
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from isnet.spectral_norm import fold_spectral_norm

Network = TypeVar("Network", bound=nn.Module)

# Only a hint for the choice of order: any size runs.
_TYPICAL_SIDE = 64


class PackedConv2d(nn.Module):
    """An ordinary convolution whose weight is in oneDNN's own order. Takes any size; gives no gradient."""

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
        return self.activated(x, "none", [])

    def activated(self, x: Tensor, activation: str, scalars: list[float]) -> Tensor:
        """σ(conv(x)) by oneDNN's name of σ: none, tanh, leaky_relu with its slope."""
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self._weight, self._bias, *self._geometry(), activation, scalars, ""
        )
        return result

    def added(self, x: Tensor, other: Tensor) -> Tensor:
        """conv(x) + other."""
        result: Tensor = torch.ops.mkldnn._convolution_pointwise.binary(
            x, other, self._weight, self._bias, *self._geometry(), "add", 1.0, None, [], ""
        )
        return result

    def _geometry(self) -> tuple[list[int], list[int], list[int], int]:
        return self._padding, self._stride, self._dilation, self._groups


def prepare_for_inference(network: Network) -> Network:
    """A copy of `network` for inference, frozen, in evaluation mode, on the same device and in the same type."""
    prepared = fold_spectral_norm(network).requires_grad_(False).eval()
    kinds = {(weight.device.type, weight.dtype) for weight in prepared.parameters()}
    if not kinds <= {("cpu", torch.float32), ("cpu", torch.bfloat16)} or not _can_pack():
        return prepared
    for parent in list(prepared.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Conv2d:
                setattr(parent, name, PackedConv2d(child))
    return prepared


def _can_pack() -> bool:
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
