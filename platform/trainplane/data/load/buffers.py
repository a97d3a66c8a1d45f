"""Memory for the tensors of batches.

Every sample of a batch has the same tensors (a `Layout`). A training process gets memory from a `BufferPool`,
page-locked where CUDA is available. A decoding process copies its part into a shared `RingBuffer`, so that no tensor
goes through a pipe.
"""

from __future__ import annotations

import math
import weakref
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from trainplane.data.types import Batch

_ALIGNMENT = 64  # bytes


@dataclass(frozen=True)
class Field:
    """Name, type and shape of one tensor of a sample."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Bytes of the tensor."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.name} {str(self.dtype).removeprefix('torch.')}{list(self.shape)}"


@dataclass(frozen=True)
class Layout:
    """Tensors that every sample of a batch has."""

    fields: tuple[Field, ...]

    @classmethod
    def of(cls, sample: Batch) -> Layout:
        """Returns the layout of a sample."""
        return cls(tuple(Field(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in sample.items()))

    def __str__(self) -> str:
        return ", ".join(map(str, self.fields))

    def stride(self, num_samples: int) -> int:
        """Bytes of a part of so many samples."""
        # Each tensor begins at a multiple of 64 bytes; the result is at least 1.
        return max(1, sum(self._padded(field, num_samples) for field in self.fields))

    def view(self, memory: torch.Tensor, num_samples: int) -> Batch:
        """Views uint8 memory of `stride(num_samples)` bytes as tensors (num_samples, …)."""
        batch: Batch = {}
        start = 0
        for field in self.fields:
            part = memory[start : start + num_samples * field.bytes]
            batch[field.name] = _view_as(part, field, num_samples)
            start += self._padded(field, num_samples)
        return batch

    def _padded(self, field: Field, num_samples: int) -> int:
        return -(-num_samples * field.bytes // _ALIGNMENT) * _ALIGNMENT

    def fits(self, sample: Batch) -> bool:
        """Tells if a sample has exactly these tensors."""
        return len(sample) == len(self.fields) and all(
            (tensor := sample.get(field.name)) is not None
            and tensor.shape == field.shape
            and tensor.dtype == field.dtype
            for field in self.fields
        )


class BufferPool:
    """Memory of batches, reused when no tensor references it.

    New memory costs more than the copy into it, because the kernel clears every page. Only buffers of the latest sizes
    are kept, up to `max_free` for each tensor.
    """

    def __init__(self, *, max_free: int = 4) -> None:
        self._max_free = max_free
        self._layout: tuple[Layout, int] | None = None
        self._free: dict[int, deque[np.ndarray[Any, np.dtype[np.uint8]]]] = {}

    def allocate(self, layout: Layout, num_samples: int) -> Batch:
        """Unshared tensors (num_samples, …), page-locked where CUDA is available."""
        if torch.cuda.is_available():
            # torch itself reuses page-locked memory.
            return {
                field.name: torch.empty((num_samples, *field.shape), dtype=field.dtype, pin_memory=True)
                for field in layout.fields
            }
        # Another layout: forget the buffers of the sizes before.
        if self._layout != (layout, num_samples):
            self._layout = (layout, num_samples)
            sizes = {num_samples * field.bytes for field in layout.fields}
            self._free = {size: deque(maxlen=self._max_free * len(layout.fields)) for size in sizes}
        return {
            field.name: _view_as(self._memory(num_samples * field.bytes), field, num_samples) for field in layout.fields
        }

    def _memory(self, size: int) -> torch.Tensor:
        free = self._free[size]
        # numpy asks the kernel for huge pages, torch does not.
        base = free.pop() if free else np.empty(size, np.uint8)
        # The tensors' storage holds this view, and nothing else does: when it dies, the buffer is free.
        view = base[:]
        weakref.finalize(view, free.append, base).atexit = False
        return torch.from_numpy(view)


def copy_to_row(sample: Batch, layout: Layout, batch: Batch, row: int) -> None:
    """Copies a sample to a row; `ValueError` if layouts differ."""
    if not layout.fits(sample):
        raise ValueError(f"samples of one batch differ: [{layout}] and [{Layout.of(sample)}]; make them alike")
    for name, tensor in batch.items():
        tensor[row].copy_(sample[name])


class RingBuffer:
    """Ring of buffers for batch parts, in shared memory.

    Pickled by torch's own pickler, it is a handle of the same memory. The writer must not reach a buffer again before
    that was read; workers.py explains why it never does.
    """

    def __init__(self, layout: Layout, num_samples: int, *, num_buffers: int) -> None:
        self.layout = layout
        self.num_buffers = num_buffers
        self._num_samples = num_samples
        self._stride = layout.stride(num_samples)
        self._memory = torch.empty(num_buffers * self._stride, dtype=torch.uint8)
        self._memory.share_memory_()  # type: ignore[no-untyped-call]

    def buffer(self, number: int) -> Batch:
        """Returns the tensors of a buffer, of shape (num_samples, …)."""
        start = number * self._stride
        return self.layout.view(self._memory[start : start + self._stride], self._num_samples)


def _view_as(memory: torch.Tensor, field: Field, num_samples: int) -> torch.Tensor:
    shape = (num_samples, *field.shape)
    return memory.view(field.dtype).view(shape) if memory.numel() else torch.empty(shape, dtype=field.dtype)
