"""Rank of this process, and sums over all ranks.

Gradients are summed as one flat buffer per dtype after accumulation, not by DistributedDataParallel: its buckets are
laid out by each process's first backward pass, so a resumed run would add in another order and end on other bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from trainplane.train.pulse import PULSE, WAITING


@dataclass(frozen=True)
class World:
    """Rank and number of ranks; `World()` needs no process group."""

    rank: int = 0
    size: int = 1

    @staticmethod
    def current() -> World:
        """Reads torch's process group; one rank where there is none."""
        if dist.is_available() and dist.is_initialized():
            return World(dist.get_rank(), dist.get_world_size())
        return World()

    @property
    def is_first(self) -> bool:
        """True on rank 0, which writes and records."""
        return self.rank == 0

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Sums each tensor over all ranks, in place."""
        if self.size == 1 or not tensors:
            return
        # One flat buffer per dtype and device, in the order of the tensors.
        by_kind: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for tensor in tensors:
            by_kind.setdefault((tensor.dtype, tensor.device), []).append(tensor)
        for group in by_kind.values():
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in group])
            with PULSE.at(WAITING):
                dist.all_reduce(flat)
            # Copy the sums back.
            offset = 0
            for tensor in group:
                tensor.copy_(flat[offset : offset + tensor.numel()].view(tensor.shape))
                offset += tensor.numel()

    def agree(self, value: int, device: torch.device) -> int:
        """Returns rank 0's value on every rank."""
        if self.size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.int64, device=device)
        with PULSE.at(WAITING):
            dist.broadcast(shared, src=0)
        return int(shared.item())

    def gather(self, data: bytes, device: torch.device) -> list[bytes]:
        """Returns the bytes of all ranks, in their order."""
        if self.size == 1:
            return [data]
        # Ranks pad their bytes to the longest.
        sizes = torch.zeros(self.size, dtype=torch.int64, device=device)
        sizes[self.rank] = len(data)
        with PULSE.at(WAITING):
            dist.all_reduce(sizes)
            longest = int(sizes.max())
            padded = torch.tensor(list(data.ljust(longest, b"\0")), dtype=torch.uint8, device=device)
            parts = [torch.empty_like(padded) for _ in range(self.size)]
            dist.all_gather(parts, padded)
        return [bytes(part.tolist())[:size] for part, size in zip(parts, sizes.tolist(), strict=True)]

    def barrier(self) -> None:
        """Waits until all ranks are here."""
        if self.size > 1:
            with PULSE.at(WAITING):
                dist.barrier()
