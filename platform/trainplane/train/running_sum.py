"""Sum over ranks of tensors that are completed in turn.

Each group of tensors is sent when it is added, and computation goes on meanwhile. All ranks add the same groups in the
same order. On GPUs, NCCL sums each group.

On the CPU the order of the additions is ours: every element has a place in one flat buffer of all tensors, and is added
as gloo's ring adds that buffer as a whole. So groups of any size give the bits of one sum at the end, and a run may
change its groups. As many bytes are sent as by the ring: each rank receives one part of a group from all ranks, adds,
and sends the result to all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from trainplane.train.pulse import PULSE, WAITING

# Bytes that gloo's ring sends at once, which decides where its sections end.
_SEGMENT_BYTES = 1 << 20


class RunningSum:
    """Sum of groups of tensors over all ranks.

    Args:
        rank: This rank.
        size: Number of ranks.
        total: Elements of all tensors together.
    """

    def __init__(self, *, rank: int, size: int, total: int) -> None:
        self._rank = rank
        self._size = size
        self._total = total
        self._groups: list[_RingGroup | _DeviceGroup] = []

    @torch.no_grad()
    def add(self, tensors: Sequence[Tensor], *, first: int) -> None:
        """Starts the sum of tensors of one dtype and device.

        Args:
            tensors: They hold their sums after `finish`, and must not change before.
            first: Place of their first element among all elements.
        """
        if self._size == 1 or not tensors:
            return
        # The one before has arrived meanwhile: it is added up, and the next message follows at once.
        self._continue_last()
        kinds = {(tensor.dtype, tensor.device) for tensor in tensors}
        if len(kinds) > 1:
            raise ValueError(f"tensors of {len(kinds)} dtypes or devices in one sum; add each kind by itself")
        if tensors[0].device.type == "cpu":
            self._groups.append(_RingGroup(tensors, first, rank=self._rank, size=self._size, total=self._total))
        else:
            self._groups.append(_DeviceGroup(tensors))

    @torch.no_grad()
    def finish(self) -> None:
        """Waits; all tensors hold their sums then."""
        self._continue_last()
        for group in self._groups:
            group.finish()
        self._groups.clear()

    def _continue_last(self) -> None:
        if self._groups:
            self._groups[-1].go_on()


class _DeviceGroup:
    """Group that NCCL sums."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = tensors
        self._flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        self._work: Any = dist.all_reduce(self._flat, async_op=True)

    def go_on(self) -> None:
        """Does nothing: one message is enough."""

    def finish(self) -> None:
        """Copies the sums into the tensors."""
        with PULSE.at(WAITING):
            self._work.wait()
        _copy_back(self._flat, self._tensors)


class _RingGroup:
    """Group whose order of additions is that of gloo's ring."""

    def __init__(self, tensors: Sequence[Tensor], first: int, *, rank: int, size: int, total: int) -> None:
        self._tensors = tensors
        self._size = size
        count = sum(tensor.numel() for tensor in tensors)
        # Each rank adds up one of `size` equal parts.
        part = -(-count // size)
        self._flat = tensors[0].new_zeros(part * size)
        torch.cat([tensor.reshape(-1) for tensor in tensors], out=self._flat[:count])
        self._places = range(first + rank * part, first + (rank + 1) * part)
        self._section = section_length(total, size, element_bytes=self._flat.element_size())
        self._received = torch.empty_like(self._flat)
        self._work: Any = dist.all_to_all_single(self._received, self._flat, async_op=True)
        self._is_added = False

    def go_on(self) -> None:
        """Adds up this rank's part, and sends it to all."""
        if self._is_added:
            return
        self._is_added = True
        with PULSE.at(WAITING):
            self._work.wait()
        rows = self._received.view(self._size, -1)
        own = torch.empty_like(rows[0])
        for section, start, stop in _sections(self._places, self._section, self._size):
            # The ring begins with the rank before the section's own, and goes backwards.
            ranks = [(section - 1 - number) % self._size for number in range(self._size)]
            torch.add(rows[ranks[0], start:stop], rows[ranks[1], start:stop], out=own[start:stop])
            for rank in ranks[2:]:
                own[start:stop] += rows[rank, start:stop]
        self._work = dist.all_gather_into_tensor(self._flat, own, async_op=True)

    def finish(self) -> None:
        """Copies the sums into the tensors."""
        with PULSE.at(WAITING):
            self._work.wait()
        _copy_back(self._flat, self._tensors)


def section_length(total: int, size: int, *, element_bytes: int) -> int:
    """Elements of a section in gloo's ring over a buffer.

    As gloo's `allreduce.cc` divides it: segments of at most 1 MiB, at least two a rank, equally many for each.
    """
    total_bytes = total * element_bytes
    segments = _rounded_up(max(-(-total_bytes // _SEGMENT_BYTES), 2 * size), size)
    segment_bytes = _rounded_up(-(-total_bytes // segments), element_bytes)
    return max(1, segments // size * segment_bytes // element_bytes)


def _sections(places: range, length: int, size: int) -> Iterator[tuple[int, int, int]]:
    """Yields (section, start, stop); both count from the first place."""
    at = places.start
    while at < places.stop:
        # Padding lies behind the last section.
        section = min(at // length, size - 1)
        stop = places.stop if section == size - 1 else min(places.stop, (section + 1) * length)
        yield section, at - places.start, stop - places.start
        at = stop


def _copy_back(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    offset = 0
    for tensor in tensors:
        tensor.copy_(flat[offset : offset + tensor.numel()].view(tensor.shape))
        offset += tensor.numel()


def _rounded_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
