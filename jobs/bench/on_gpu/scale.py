"""Size of the bench's work on each device."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from jobs.bench.step import Case


@dataclass(frozen=True)
class Scale:
    """Size of the work of all sections."""

    case: Case
    rounds: int
    batches: tuple[int, ...]  # of inference

    @classmethod
    def of(cls, device: str) -> Scale:
        """`places2` on a GPU, much less on a processor."""
        if device == "cuda":
            return cls(Case(256, 6, 4, "cuda"), rounds=10, batches=(1, 6, 32, 128))
        return cls(Case(32, 2, 1, "cpu"), rounds=1, batches=(1, 2))

    @property
    def device(self) -> torch.device:
        """Device of the case."""
        return torch.device(self.case.device)

    @property
    def card(self) -> str:
        """Name of the GPU; empty on a processor."""
        return torch.cuda.get_device_name() if self.device.type == "cuda" else ""

    def of_batch(self, batch: int) -> Case:
        """The case with another number of pictures."""
        return replace(self.case, batch=batch)

    def wait(self) -> None:
        """Waits for a GPU."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
