"""Memory that the tensors of a batch are laid into, sample by sample.

Every sample of a batch has the same tensors (a `Layout`). Whoever trains gets fresh memory, page-locked where CUDA
is; a decoding process lays its part into a `Ring` that it shares with this one, so that no pixel goes through a pipe.
Not covered: what is laid there (parts.py) and the processes (workers.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from trainplane.task import Batch

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

    def fits(self, sample: Batch) -> bool:
        return len(sample) == len(self.fields) and all(
            (tensor := sample.get(field.name)) is not None
            and tensor.shape == field.shape
            and tensor.dtype == field.dtype
            for field in self.fields
        )

    def fresh(self, num_samples: int) -> Batch:
        """Memory of nobody else: tensors of shape (num_samples, …), page-locked where CUDA is."""
        if torch.cuda.is_available():
            return {
                field.name: torch.empty((num_samples, *field.shape), dtype=field.dtype, pin_memory=True)
                for field in self.fields
            }
        # numpy asks the kernel for huge pages, torch does not: new memory then costs a tenth of the page faults.
        return {
            field.name: _seen_as(torch.from_numpy(np.empty(num_samples * field.bytes, np.uint8)), field, num_samples)
            for field in self.fields
        }


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
        self._stride = sum(map(self._padded, layout.fields))
        self._memory = torch.empty(max(1, num_places * self._stride), dtype=torch.uint8)
        self._memory.share_memory_()  # type: ignore[no-untyped-call]

    def place(self, number: int) -> Batch:
        """The tensors at a place, of shape (num_samples, …)."""
        batch: Batch = {}
        start = number * self._stride
        for field in self.layout.fields:
            batch[field.name] = _seen_as(
                self._memory[start : start + self._num_samples * field.bytes], field, self._num_samples
            )
            start += self._padded(field)
        return batch

    def _padded(self, field: Field) -> int:
        return -(-self._num_samples * field.bytes // _ALIGNMENT) * _ALIGNMENT


def _seen_as(memory: torch.Tensor, field: Field, num_samples: int) -> torch.Tensor:
    shape = (num_samples, *field.shape)
    return memory.view(field.dtype).view(shape) if memory.numel() else torch.empty(shape, dtype=field.dtype)
