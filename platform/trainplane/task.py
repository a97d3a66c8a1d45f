"""Interface of a model to train, search, register and serve.

Every rank constructs the task from the run's configuration alone. trainplane calls it in this order::

    task = MyTask(config, device)           # modules and optimisers, seeded by the caller
    sample -> task.transform(...)           # in loader workers: bytes to tensors, randomness from `rng` alone
    task.self_check(micro_batch, ...)       # once, before the first step
    task.step(micro_batches, ...)           # once a global step
    task.begin_at(...)                      # in a new run that begins at the weights of another one
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

from trainplane.cluster.context import Context
from trainplane.data.types import Batch, Sample, Transform
from trainplane.errors import UserError
from trainplane.train.guard.policy import Balance
from trainplane.train.run_config import RunConfig
from trainplane.train.running_sum import RunningSum
from trainplane.train.start.weights import StartReport, StartSource, StartWeights, load_weights, report_of


class Reducer(Protocol):
    """Sums tensors over all ranks, in a fixed order."""

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Sums each tensor in place; with one rank, does nothing."""

    def start_sum(self, total: int) -> RunningSum | None:
        """Begins a sum of `total` elements, while computation goes on.

        None where there is one rank.
        """


@dataclass(frozen=True)
class GalleryImage:
    """Image that is shown at every validation."""

    name: str  # Name of the image, the same at every validation
    pixels: np.ndarray[Any, np.dtype[np.uint8]]  # RGB, uint8 of shape (H, W, 3)


@dataclass(frozen=True)
class Validation:
    """Result of a validation: metrics by name, and gallery images."""

    metrics: dict[str, float]
    images: list[GalleryImage] = field(default_factory=list)


@dataclass(frozen=True)
class Exported:
    """Loader of an exported model, without the training code."""

    loader_module: str  # Importable module with `_load_pyfunc(path)`, MLflow's loader convention; nothing is unpickled
    code_paths: Sequence[Path]  # Packages that travel with the model
    requirements: Sequence[str]  # Pinned requirements of the loader


class Task(ABC):
    """A model and how to train it; see the module."""

    Config: ClassVar[type[RunConfig]] = RunConfig

    def __init__(self, config: Any, device: torch.device) -> None:
        self.config = config
        self.device = device

    @abstractmethod
    def modules(self) -> dict[str, nn.Module]:
        """Modules of the state by name, a moving average included."""

    @abstractmethod
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """All optimisers, by name; the guard calls them players."""

    def counters(self) -> dict[str, float | int | str]:
        """Small scalars of the state, beside the step."""
        return {}

    def load_counters(self, counters: Mapping[str, float | int | str]) -> None:
        """Restores what `counters` returned."""
        if counters:
            raise ValueError(f"unexpected counters {sorted(counters)}")

    @classmethod
    @abstractmethod
    def transform_of(cls, config: Any) -> Transform:
        """Picklable function that turns a sample into tensors."""

    @abstractmethod
    def step(self, micro_batches: Sequence[Batch], *, global_batch: int, reduce: Reducer) -> dict[str, Tensor]:
        """Trains on one global batch.

        Computes the gradients of all players from the same weights, sums them over ranks, then updates. Call each
        optimiser's `step` after all gradients are there: the guard checks them in a hook
        (`trainplane.train.guard.gradient_check`).

        Args:
            micro_batches: This rank's share of the batch.
            global_batch: Samples of all ranks. A loss is a sum over samples divided by it, at any ranks and
                accumulation.
            reduce: Sums tensors over ranks.

        Returns:
            This rank's share of each metric, as 0-dim tensors on the device. Their sum over ranks is the metric.
        """

    def balance(self) -> dict[str, Balance]:
        """Bounds of `step` metrics that show the players' balance."""
        return {}

    def self_check(self, micro_batch: Batch, *, reduce: Reducer) -> str | None:
        """Checks on one micro-batch that this machine computes correctly.

        The state must not change. Returns a message about a fallback, the same on all ranks (use `reduce`), or None.
        """
        return None

    def timings(self) -> dict[str, float]:
        """Seconds by part of `step`, measured without waiting for devices."""
        return {}

    @abstractmethod
    def validate(self, samples: Sequence[tuple[int, Sample]], *, reduce: Reducer, gallery: Sequence[int]) -> Validation:
        """Measures this rank's held-out samples, (index, members) pairs.

        Metrics are those of all ranks. `gallery` has the indices of the samples to return images for.
        """

    @classmethod
    def check(cls, config: Any) -> None:
        """Raises `UserError` for settings that do not fit the networks."""
        return

    @classmethod
    def find_start(cls, typed: str, context: Context) -> StartSource:
        """Finds what `train.start_from` names; `UserError` where nothing is."""
        from trainplane.train.start.checkpoint import find_checkpoint

        return find_checkpoint(typed, context)

    @classmethod
    def read_start(cls, config: Any, context: Context) -> StartWeights:
        """Reads what `find_start` found."""
        from trainplane.train.start.checkpoint import read_networks

        return read_networks(config.train.start_from, config.task)

    @classmethod
    def plan_start(cls, config: Any, weights: StartWeights) -> StartReport:
        """Reports what `begin_at` would do; `UserError` if too little fits."""
        with torch.device("meta"):
            modules = cls(config, torch.device("meta")).modules()
        report = report_of(config.train.start_from, weights, modules)
        return report.checked(strict=config.train.start_from_strict)

    def begin_at(self, weights: StartWeights) -> None:
        """Loads what fits of a start's weights into the networks."""
        load_weights(weights, self.modules())

    @classmethod
    def measured(cls, config: Any) -> Collection[str] | None:
        """Names of all metrics of `validate`; None: unknown in advance."""
        return None

    @classmethod
    def headlines(cls, config: Any) -> Sequence[str]:
        """Metrics that MLflow's pages show first, in that order."""
        return ()

    @abstractmethod
    def export(self, folder: Path) -> Exported:
        """Writes a self-contained model, with safetensors and JSON, never pickles."""

    def describe(self) -> dict[str, str | int | float]:
        """Values for the record, such as the number of parameters."""
        return {}


def load_task(reference: str) -> type[Task]:
    """Imports a task class by its name, `package.module:Class`."""
    # The import runs the user's module: on a node without the package it fails here.
    module_name, _, class_name = reference.partition(":")
    try:
        task_class = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"task {reference!r} cannot be imported ({error}); need 'package.module:Class'; "
            "install the package on every node or pass it with the job"
        ) from error
    if not (isinstance(task_class, type) and issubclass(task_class, Task)):
        raise UserError(f"task {reference!r} is no trainplane Task; derive it from trainplane.task.Task")
    return task_class
