"""The seam: what a model must offer to be trained, searched, registered and served here.

A task is constructed alike in every rank from the run's configuration alone. trainplane calls it in this order::

    task = MyTask(config, device)           # modules and optimisers, seeded by the caller
    sample -> task.transform(...)           # in loader workers: bytes to tensors, randomness from `rng` alone
    task.self_check(micro_batch, ...)       # once, before the first step
    task.step(micro_batches, ...)           # once a global step
    task.validate(...)                      # at the validation cadence
    task.export(folder)                     # what is registered and served

Everything that must survive a kill lives in `modules`, `optimizers` and `counters`; there is no other state.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from trainplane.data.types import Batch, Sample, Transform
from trainplane.errors import UserError
from trainplane.train.guard.policy import Balance
from trainplane.train.run_config import RunConfig


class Reducer(Protocol):
    """Sums tensors over all ranks, in place and in a fixed order. With one rank it leaves them alone."""

    def sum_(self, tensors: Sequence[Tensor]) -> None: ...


@dataclass(frozen=True)
class Picture:
    """One entry of a gallery: uint8 RGB of shape (H, W, 3), shown under `name` at every validation."""

    name: str
    pixels: np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class Validation:
    """What one validation found: metrics by name and the pictures of the gallery."""

    metrics: dict[str, float]
    pictures: list[Picture] = field(default_factory=list)


@dataclass(frozen=True)
class Exported:
    """What `Task.export` wrote into a folder, and how to load it again without the training code's cluster parts.

    loader_module -- importable module with `_load_pyfunc(path)`, MLflow's loader convention; nothing is unpickled
    code_paths    -- packages that travel with the model
    requirements  -- pinned requirements of the loader
    """

    loader_module: str
    code_paths: Sequence[Path]
    requirements: Sequence[str]


class Task(ABC):
    """A model under training. See the module docstring for the order of calls."""

    Config: ClassVar[type[RunConfig]] = RunConfig

    def __init__(self, config: Any, device: torch.device) -> None:
        self.config = config
        self.device = device

    @abstractmethod
    def modules(self) -> dict[str, nn.Module]:
        """Every module whose parameters and buffers make up the state, the moving average included."""

    @abstractmethod
    def optimizers(self) -> dict[str, torch.optim.Optimizer]: ...

    def counters(self) -> dict[str, float | int | str]:
        """Small scalars that belong to the state beside the step."""
        return {}

    def load_counters(self, counters: Mapping[str, float | int | str]) -> None:
        """Take back what `counters` returned."""
        if counters:
            raise ValueError(f"unexpected counters {sorted(counters)}")

    @classmethod
    @abstractmethod
    def transform_of(cls, config: Any) -> Transform:
        """The picklable function the loader applies to each sample, in this process or in a worker."""

    @abstractmethod
    def step(self, micro_batches: Sequence[Batch], *, global_batch: int, reduce: Reducer) -> dict[str, Tensor]:
        """One global step: gradients of all players from the same weights, summed over ranks, then the updates.

        `micro_batches` are this rank's share; losses are sums over samples divided by `global_batch`, so ranks and
        accumulation do not change them. Returns 0-dim tensors on the device, without waiting for it: this rank's
        share of each metric, so that their sum over ranks is the metric of the global batch.

        Every optimiser's `step` is called after all gradients are there: the guard looks at them on the way, and
        where they are not sound no optimiser moves (`trainplane.train.guard.gradient_check`).
        """

    def balance(self) -> dict[str, Balance]:
        """Bounds of the metrics of `step` that tell how the players stand; none: nothing to balance."""
        return {}

    def self_check(self, micro_batch: Batch, *, reduce: Reducer) -> str | None:
        """Try on one micro-batch whether this machine computes what it should; the state is as before when it returns.

        A sentence says what the task fell back to and why, on all ranks alike (`reduce`); None: all is well.
        """
        return None

    def timings(self) -> dict[str, float]:
        """Seconds by part of `step` so far, as far as the task measures them without waiting for the device."""
        return {}

    @abstractmethod
    def validate(self, samples: Sequence[tuple[int, Sample]], *, reduce: Reducer, gallery: Sequence[int]) -> Validation:
        """Measure on this rank's share of the validation samples, reduced over ranks.

        `samples` are (index, members) pairs; pictures are returned for the indices in `gallery`.
        """

    @classmethod
    def measured(cls, config: Any) -> Collection[str] | None:
        """Names of all metrics that `validate` may return, so that a misspelt one is found before the first step.

        None: not known before it has run.
        """
        return None

    @abstractmethod
    def export(self, folder: Path) -> Exported:
        """Write the files of a self-contained model into `folder` (safetensors and JSON; never pickles)."""

    def describe(self) -> dict[str, str | int | float]:
        """Facts for the record, such as the number of parameters."""
        return {}


def load_task(reference: str) -> type[Task]:
    """The task class behind `package.module:Class`, as runs name it in their record."""
    module_name, _, class_name = reference.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"task {reference!r} cannot be imported ({error}); need 'package.module:Class'; "
            "install the package on every node or pass it with the job"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise UserError(f"task {reference!r} is no trainplane Task; derive it from trainplane.task.Task")
    return found
