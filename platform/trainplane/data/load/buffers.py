"""Memory that the tensors of a batch are laid into, sample by sample.

Every sample of a batch has the same tensors (a `Layout`). Whoever trains gets memory of its own (`Shelf`), page-locked
where CUDA is; a decoding process lays its part into a `Ring` that it shares with this one, so that no pixel goes
through a pipe.
Not covered: what is laid there (parts.py) and the processes (workers.py).
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
    """One tensor of a sample."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.name} {str(self.dtype).removeprefix('torch.')}{list(self.shape)}"


@dataclass(frozen=True)
class Layout:
    """The tensors that every sample of a batch has."""

    fields: tuple[Field, ...]

    @classmethod
    def of(cls, sample: Batch) -> Layout:
        return cls(tuple(Field(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in sample.items()))

    def __str__(self) -> str:
        return ", ".join(map(str, self.fields))

    def stride(self, num_samples: int) -> int:
        """Bytes of so many samples' tensors, each tensor beginning at a multiple of 64; at least 1."""
        return max(1, sum(self._padded(field, num_samples) for field in self.fields))

    def seen(self, memory: torch.Tensor, num_samples: int) -> Batch:
        """The tensors of shape (num_samples, …) in `stride(num_samples)` bytes."""
        batch: Batch = {}
        start = 0
        for field in self.fields:
            part = memory[start : start + num_samples * field.bytes]
            batch[field.name] = _seen_as(part, field, num_samples)
            start += self._padded(field, num_samples)
        return batch

    def _padded(self, field: Field, num_samples: int) -> int:
        return -(-num_samples * field.bytes // _ALIGNMENT) * _ALIGNMENT

    def fits(self, sample: Batch) -> bool:
        return len(sample) == len(self.fields) and all(
            (tensor := sample.get(field.name)) is not None
            and tensor.shape == field.shape
            and tensor.dtype == field.dtype
            for field in self.fields
        )


class Shelf:
    """Memory for batches, which serves again when the last tensor that looks at it is gone.

    New memory costs more than what is laid into it: the kernel clears every page first. Of each size `most` pieces wait
    at a time, and only the sizes of the last batch.
    """

    def __init__(self, *, most: int = 4) -> None:
        self._most = most
        self._layout: tuple[Layout, int] | None = None
        self._waiting: dict[int, deque[np.ndarray[Any, np.dtype[np.uint8]]]] = {}

    def room(self, layout: Layout, num_samples: int) -> Batch:
        """Tensors of shape (num_samples, …) in memory that nobody else uses, page-locked where CUDA is."""
        if torch.cuda.is_available():
            # torch keeps page-locked memory for the next one itself.
            return {
                field.name: torch.empty((num_samples, *field.shape), dtype=field.dtype, pin_memory=True)
                for field in layout.fields
            }
        if self._layout != (layout, num_samples):
            self._layout = (layout, num_samples)
            sizes = {num_samples * field.bytes for field in layout.fields}
            self._waiting = {size: deque(maxlen=self._most * len(layout.fields)) for size in sizes}
        return {
            field.name: _seen_as(self._memory(num_samples * field.bytes), field, num_samples) for field in layout.fields
        }

    def _memory(self, size: int) -> torch.Tensor:
        waiting = self._waiting[size]
        # numpy asks the kernel for huge pages, torch does not.
        base = waiting.pop() if waiting else np.empty(size, np.uint8)
        # The tensors' storage holds this view, and nothing else does.
        view = base[:]
        weakref.finalize(view, waiting.append, base).atexit = False
        return torch.from_numpy(view)


def lay(sample: Batch, layout: Layout, into: Batch, row: int) -> None:
    """Copy a sample's tensors to row `row` of `into`; a `ValueError` where they are not of the layout."""
    if not layout.fits(sample):
        raise ValueError(f"samples of one batch differ: [{layout}] and [{Layout.of(sample)}]; make them alike")
    for name, place in into.items():
        place[row].copy_(sample[name])


class Ring:
    """Places for parts of `num_samples` samples, in memory that other processes see.

    Pickled (by torch's own pickler) it is a handle of the same memory. Whoever fills it uses its places in turn, and
    must not come round to a place before it was read: workers.py says why it never does.
    """

    def __init__(self, layout: Layout, num_samples: int, *, num_places: int) -> None:
        self.layout = layout
        self.num_places = num_places
        self._num_samples = num_samples
        self._stride = layout.stride(num_samples)
        self._memory = torch.empty(num_places * self._stride, dtype=torch.uint8)
        self._memory.share_memory_()  # type: ignore[no-untyped-call]

    def place(self, number: int) -> Batch:
        """The tensors at a place, of shape (num_samples, …)."""
        start = number * self._stride
        return self.layout.seen(self._memory[start : start + self._stride], self._num_samples)


def _seen_as(memory: torch.Tensor, field: Field, num_samples: int) -> torch.Tensor:
    shape = (num_samples, *field.shape)
    return memory.view(field.dtype).view(shape) if memory.numel() else torch.empty(shape, dtype=field.dtype)
