"""Rank of this process, and sums over all ranks.

Gradients are summed by `start_sum`, not by DistributedDataParallel: its buckets are laid out by each process's first
backward pass, so a resumed run would add in another order and end on other bits.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

from trainplane.train.pulse import PULSE, WAITING
from trainplane.train.running_sum import RunningSum

PIECE_BYTES = 16 << 20
"""Bytes of a broadcast, and of the memory for it."""

Part: TypeAlias = tuple[int, int, int]
"""Number of a tensor, first byte, and the byte behind the last."""


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

    def start_sum(self, total: int) -> RunningSum | None:
        """Begins a sum of `total` elements, added in groups.

        None where this is the only rank: nothing is summed.
        """
        if self.size == 1:
            return None
        return RunningSum(rank=self.rank, size=self.size, total=total)

    def agree(self, value: int, device: torch.device) -> int:
        """Returns rank 0's value on every rank."""
        if self.size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.int64, device=device)
        with PULSE.at(WAITING):
            dist.broadcast(shared, src=0)
        return int(shared.item())

    def share(self, data: bytes, device: torch.device) -> bytes:
        """Returns rank 0's bytes, at least one, on every rank."""
        buffer = bytearray(data.ljust(self.agree(len(data), device), b"\0"))
        self.share_tensors([torch.frombuffer(buffer, dtype=torch.uint8)], device)
        return bytes(buffer)

    def share_tensors(self, tensors: Sequence[Tensor], device: torch.device) -> None:
        """Overwrites contiguous CPU tensors with those of rank 0.

        They are sent as bytes, `PIECE_BYTES` at once, over `device`.
        """
        if self.size == 1:
            return
        views = [tensor.view(-1).view(torch.uint8) for tensor in tensors if tensor.numel()]
        piece = torch.empty(min(PIECE_BYTES, sum(map(len, views))), dtype=torch.uint8, device=device)
        for parts in _pieces([len(view) for view in views], PIECE_BYTES):
            # Parts of several tensors make one piece, as most tensors are small.
            places = list(zip(parts, _offsets(parts), strict=True))
            used = piece[: sum(stop - start for _, start, stop in parts)]
            if self.is_first:
                for (number, start, stop), at in places:
                    used[at : at + stop - start].copy_(views[number][start:stop])
            with PULSE.at(WAITING):
                dist.broadcast(used, src=0)
            if not self.is_first:
                for (number, start, stop), at in places:
                    views[number][start:stop].copy_(used[at : at + stop - start])

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


def _pieces(sizes: Sequence[int], limit: int) -> Iterator[list[Part]]:
    """Cuts tensors of `sizes` bytes into pieces of `limit` bytes."""
    parts: list[Part] = []
    room = limit
    for number, size in enumerate(sizes):
        start = 0
        while start < size:
            stop = min(size, start + room)
            parts.append((number, start, stop))
            room -= stop - start
            start = stop
            if not room:
                yield parts
                parts, room = [], limit
    if parts:
        yield parts


def _offsets(parts: Sequence[Part]) -> list[int]:
    """Byte of the piece at which each part begins."""
    return [0, *itertools.accumulate(stop - start for _, start, stop in parts)][:-1]


def sum_over_ranks(shares: Mapping[str, Tensor], world: World) -> dict[str, float]:
    """Sums 0-dim shares of each metric; waits for the device."""
    if not shares:
        return {}
    # Sorted, so that all ranks stack the same metrics in the same order.
    names = sorted(shares)
    total = torch.stack([shares[name].detach().double() for name in names])
    world.sum_([total])
    return dict(zip(names, total.tolist(), strict=True))
