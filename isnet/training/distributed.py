"""Sums over ranks, as the training step needs them, without knowing who runs the ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class Reducer(Protocol):
    """Sums tensors over all ranks, in place. Every rank calls it with the same shapes in the same order."""

    def sum_(self, tensors: Sequence[Tensor]) -> None: ...


class LocalReducer:
    """One rank: the sum is what it has."""

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        return None


class GroupReducer:
    """Ranks of a torch.distributed process group; None is the default group. One message per dtype."""

    def __init__(self, group: Any = None) -> None:
        self.group = group

    @torch.no_grad()
    def sum_(self, tensors: Sequence[Tensor]) -> None:
        for dtype in sorted({t.dtype for t in tensors}, key=str):
            same = [t for t in tensors if t.dtype == dtype]
            flat = torch.cat([t.reshape(-1) for t in same])
            dist.all_reduce(flat, group=self.group)
            parts = torch.split(flat, [t.numel() for t in same])
            for tensor, part in zip(same, parts, strict=True):
                tensor.copy_(part.view(tensor.shape))
