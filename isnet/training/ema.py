"""Moving average of a network's parameters, for evaluation.

Not covered: the paper's presets use none; the released code has none.
"""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from isnet.errors import InputError

Network = TypeVar("Network", bound=nn.Module)


class EMA(Generic[Network]):
    """Exponential moving average of a network.

    `module` is a copy whose parameters follow those of `network`. Its buffers are copied, not averaged: the average of
    two unit vectors u is no unit vector, and σ would shrink.
    """

    def __init__(self, network: Network, *, decay: float) -> None:
        if not 0 <= decay < 1:
            raise InputError(f"ema is {decay!r}; need a decay from 0 up to but not 1, such as 0.999, or none at all")
        self.decay = decay
        self.module = copy.deepcopy(network).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, network: Network) -> None:
        """Moves the average one step towards `network`."""
        # p <- decay·p + (1 − decay)·p_network.
        averages: list[Tensor] = list(self.module.parameters())
        parameters: list[Tensor] = list(network.parameters())
        torch._foreach_lerp_(averages, parameters, 1 - self.decay)
        if buffers := list(self.module.buffers()):
            torch._foreach_copy_(buffers, list(network.buffers()))
