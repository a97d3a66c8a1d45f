"""The ranks of a run, seen from one of them: who am I, and sums over all.

Gradients are summed as one flat buffer per dtype after accumulation, not by DistributedDataParallel: its buckets are
laid out by the first backward pass of each process, so that a resumed run would add in another order and end on other
bits. With a fixed layout the sum at a given number of ranks is always the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class World:
    """One rank's place. `World()` is a run of one rank that needs no process group."""

    rank: int = 0
    size: int = 1

    @staticmethod
    def current() -> World:
        """The place in torch's process group, or alone where there is none."""
        if dist.is_available() and dist.is_initialized():
            return World(dist.get_rank(), dist.get_world_size())
        return World()

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Sum each tensor over all ranks, in place, in the order given."""
        if self.size == 1 or not tensors:
            return
        by_kind: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for tensor in tensors:
            by_kind.setdefault((tensor.dtype, tensor.device), []).append(tensor)
        for group in by_kind.values():
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in group])
            dist.all_reduce(flat)
            offset = 0
            for tensor in group:
                tensor.copy_(flat[offset : offset + tensor.numel()].view(tensor.shape))
                offset += tensor.numel()

    def agree(self, value: int, device: torch.device) -> int:
        """Rank 0's value, known to all."""
        if self.size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.int64, device=device)
        dist.broadcast(shared, src=0)
        return int(shared.item())

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()
