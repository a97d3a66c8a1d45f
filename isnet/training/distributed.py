"""Sums over ranks for the training step, for any launcher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class SumReducer(Protocol):
    """Sums tensors over all ranks, in place.

    Every rank calls it with the same shapes in the same order.
    """

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each tensor by its sum over ranks."""


class LocalReducer:
    """Sums over one rank, which change nothing."""

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Leaves the tensors as they are."""


class GroupReducer:
    """Sums over a torch.distributed group; None is the default."""

    def __init__(self, group: Any = None) -> None:
        self.group = group

    @torch.no_grad()
    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Sums in place, with one message per dtype."""
        # Sorted: all ranks must send the same dtype at the same time.
        for dtype in sorted({t.dtype for t in tensors}, key=str):
            same = [t for t in tensors if t.dtype == dtype]
            flat = torch.cat([t.reshape(-1) for t in same])
            dist.all_reduce(flat, group=self.group)
            parts = torch.split(flat, [t.numel() for t in same])
            for tensor, part in zip(same, parts, strict=True):
                tensor.copy_(part.view(tensor.shape))
