"""Networks under training, and their global step.

A method says how one micro-batch adds to the gradients (`_accumulate`), and which networks a step moves. Written once
here: optimisers, moving average, spectral norm, micro-batches, the sum over ranks, timers. One step takes all gradients
from the same weights and only then moves the networks. Not covered: data, validation, checkpoints, the loop.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from isnet import losses
from isnet.errors import InputError
from isnet.spectral_norm import SpectralLayer, spectral_layers
from isnet.training.distributed import GroupReducer, LocalReducer, SumReducer
from isnet.training.ema import EMA
from isnet.training.gradient_sum import GradientSum
from isnet.training.optimizers import check_patterns, parameter_groups
from isnet.training.step_weights import StepWeights
from isnet.training.timing import StepTimer

Precision = Literal["fp32", "bf16"]
MicroBatch = tuple[Tensor, ...]
"""Image (B, 3, H, W), mask (B, 1, H, W), and what else a method asks of the loader."""
Metrics = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """Settings that all methods share.

    Attributes:
        lr_g: Learning rate of generators.
        lr_d: Learning rate of discriminators.
        betas: Adam's.
        precision: bf16 runs the networks under autocast; weights, losses, Gram matrices and σ stay float32.
        ema: Decay of the moving average of G; None for none.
        channels_last: Activations and normalised weights in NHWC order.
        freeze: Patterns of parameters that keep their values, see `optimizers`.
        rate_factors: Pattern -> factor of the rate of the parameters that it fits.
    """

    lr_g: float = 1e-4
    lr_d: float = 1e-5
    betas: tuple[float, float] = (0.0, 0.9)
    precision: Precision = "fp32"
    ema: float | None = None
    channels_last: bool = False
    freeze: tuple[str, ...] = ()
    rate_factors: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_choice("precision", Precision)
        self._check_positive("lr_g", "lr_d")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"betas are {self.betas!r}; need two numbers from 0 up to but not 1")

    def _check_choice(self, name: str, options: object) -> None:
        value, allowed = getattr(self, name), get_args(options)
        if value not in allowed:
            raise InputError(f"{name} is {value!r}; need one of {', '.join(allowed)}")

    def _check_positive(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} is {value!r}; need a positive number")


class Players(ABC):
    """Networks under training, with optimisers and EMA.

    Networks wrapped in DistributedDataParallel are unwrapped: gradients are summed over ranks by `reduce` (or, where
    that is a `LocalReducer`, over the wrapper's own process group), once a step and not once a micro-batch.

    Args:
        networks: Networks to save, by name. `generator` is the one that is evaluated and registered.
        settings: Of the step.
        device: Where they are trained.
        parts: Networks that have an optimiser of their own, parts of `networks`; these themselves where it is None.
    """

    # True: one micro-batch runs backward to each weight once, so its gradients are summed while others are computed.
    goes_back_once: ClassVar[bool] = False

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        settings: StepSettings,
        *,
        device: torch.device | str,
        parts: Mapping[str, nn.Module] | None = None,
    ) -> None:
        self.device = torch.device(device)
        # Steps taken; part of the state where a method has phases.
        self.done = 0
        # True: memory is computed on the CPU as if this were a GPU.
        self.on_gpu = self.device.type == "cuda"
        self._group_reducer: SumReducer = LocalReducer()
        self._networks = {name: self._unwrapped(network).to(self.device) for name, network in networks.items()}
        self._parts = dict(parts if parts is not None else self._networks)
        self._settings = settings
        self.generator = self._networks["generator"]
        self.make_optimizers()
        self.ema = EMA(self.generator, decay=settings.ema) if settings.ema is not None else None
        self.timer = StepTimer(self.device)
        if settings.channels_last:
            for network in self._networks.values():
                use_channels_last(network)

    def modules(self) -> dict[str, nn.Module]:
        """Modules to save: all networks and any ema."""
        # Together with the optimisers and counters they are the whole state.
        return {**self._networks, **({"ema": self.ema.module} if self.ema is not None else {})}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Optimisers to save, by the name of their network."""
        return dict(self._optimizers)

    def counters(self) -> dict[str, float | int | str]:
        """Scalars of the state."""
        return {}

    def load_counters(self, counters: Mapping[str, float | int | str]) -> None:
        """Restores what `counters` returned."""
        if counters:
            raise ValueError(f"unexpected counters {sorted(counters)}")

    def frozen(self) -> list[nn.Module]:
        """Networks that are read and never trained."""
        return []

    def eval_generator(self) -> nn.Module:
        """Network to evaluate and register: EMA if any, else G."""
        # For many pictures fold it first (`spectral_norm.fold_spectral_norm`).
        return self.generator if self.ema is None else self.ema.module

    def example_batch(self, count: int, size: int) -> MicroBatch:
        """Squares of `size` pixels, to compute memory with."""
        return torch.rand(count, 3, size, size), torch.ones(count, 1, size, size)

    def phase_starts(self) -> list[int]:
        """First step of each phase, the largest last."""
        return [0]

    def make_optimizers(self) -> None:
        """Makes optimisers of the networks' present parameters."""
        self._step_weights = {name: StepWeights(part, stack=self.on_gpu) for name, part in self._parts.items()}
        check_patterns("train.freeze", self._settings.freeze, self._parts)
        check_patterns("train.rate_factors", self._settings.rate_factors, self._parts)
        self._optimizers = {
            name: self._optimizer(name, part, self._settings.lr_d if "discriminator" in name else self._settings.lr_g)
            for name, part in self._parts.items()
        }

    def step(self, micro_batches: Sequence[MicroBatch], *, global_batch: int, reduce: SumReducer) -> Metrics:
        """Takes one global step on this rank's micro-batches.

        `global_batch` counts the samples of all ranks. Returns 0-dim tensors on the device, without waiting for it:
        this rank's share of each metric, so that the sum over ranks is the metric of the global batch.
        """
        if isinstance(reduce, LocalReducer):
            reduce = self._group_reducer
        moving = {name: self._parts[name] for name in self._moving()}
        for optimizer in self._optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        batches = [self._on_device(*batch) for batch in micro_batches]
        _check_share(batches, global_batch)

        # A divisor by the hole ratio belongs to the whole global batch, so it is computed before the first forward.
        hole_ratio = self._hole_ratio(batches, global_batch, reduce) if self._needs_hole_ratio() else None

        # All gradients, from the weights before the step (ISNET.md §6).
        metrics: Metrics = {}
        weights = [self._step_weights[name] for name in moving]
        sums = GradientSum(reduce, list(moving.values()), collect=partial(_collect, weights))
        with ExitStack() as stack:
            # Spectral norm moves once a step, however many micro-batches follow.
            for part in weights:
                stack.enter_context(part.held(iterations=1, dtype=self.held_dtype))
            for number, batch in enumerate(batches, 1):
                is_last = number == len(batches)
                if is_last and self.goes_back_once:
                    sums.watch()
                share = self._accumulate(batch, global_batch, hole_ratio)
                metrics = {name: metrics[name] + value if metrics else value for name, value in share.items()}
                # Gradients of several micro-batches are added up in float32.
                if self.held_dtype is not None and not is_last:
                    _collect(weights)

        # The sum over ranks; every loss was divided by the global batch already.
        with self.timer.part("reduce"):
            sums.finish()

        # The networks move, then the average of G.
        with self.timer.part("optimiser"):
            for name in moving:
                self._optimizers[name].step()
            if self.ema is not None and any("discriminator" not in name for name in moving):
                self.ema.update(self.generator)
        return metrics

    @abstractmethod
    def _accumulate(self, batch: MicroBatch, global_batch: int, hole_ratio: Tensor | None) -> Metrics:
        """Adds one micro-batch's gradients and returns its metrics."""

    def _moving(self) -> Sequence[str]:
        """Names of the networks that this step moves."""
        return list(self._parts)

    def _needs_hole_ratio(self) -> bool:
        return False

    @staticmethod
    def _hole_ratio(batches: Sequence[MicroBatch], global_batch: int, reduce: SumReducer) -> Tensor:
        ratio = torch.stack([losses.hole_ratio_sum(mask) for _, mask, *_ in batches]).sum() / global_batch
        reduce.sum_([ratio])
        return ratio

    def _on_device(self, image: Tensor, *rest: Tensor) -> MicroBatch:
        image = image.to(self.device, non_blocking=True)
        if self._settings.channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        return image, *(tensor.to(self.device, image.dtype, non_blocking=True) for tensor in rest)

    @property
    def held_dtype(self) -> torch.dtype | None:
        """Type of W/σ in a step; None: W's.

        Under autocast the type of the convolutions: the weights are cast together, not one by one in each pass.
        """
        return torch.bfloat16 if self._settings.precision == "bf16" else None

    def _autocast(self) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._settings.precision == "bf16")

    def _optimizer(self, name: str, network: nn.Module, rate: float) -> torch.optim.Optimizer:
        # A whole number, as YAML reads 0, is refused by Adam.
        first, second = (float(beta) for beta in self._settings.betas)
        # Fused: one kernel for all parameters, which CPUs and CUDA have.
        fused = self.device.type in ("cpu", "cuda")
        return torch.optim.Adam(self._groups(name, network, rate), lr=rate, betas=(first, second), fused=fused)

    def _groups(self, name: str, network: nn.Module, rate: float) -> list[dict[str, Any]]:
        settings = self._settings
        return parameter_groups(name, network, rate=rate, freeze=settings.freeze, rate_factors=settings.rate_factors)

    def _unwrapped(self, network: nn.Module) -> nn.Module:
        # DDP would all-reduce in every backward pass; its process group serves once a step instead.
        if not isinstance(network, DistributedDataParallel):
            return network
        self._group_reducer = GroupReducer(network.process_group)
        module: nn.Module = network.module
        return module


def _collect(weights: Sequence[StepWeights], among: Collection[SpectralLayer] | None = None) -> None:
    for part in weights:
        part.collect(among)


def use_channels_last(network: nn.Module) -> None:
    """Holds the normalised weights in NHWC order."""
    # Raw weights, and so checkpoints and Adam, keep their own order.
    for layer in spectral_layers(network):
        layer.channels_last = True


def _check_share(batches: Sequence[MicroBatch], global_batch: int) -> None:
    counts = [len(image) for image, *_ in batches]
    if not counts or 0 in counts or sum(counts) > global_batch:
        raise InputError(
            f"this rank has {sum(counts)} samples of a global batch of {global_batch}, {counts} in its micro-batches; "
            "need 1 to all of them, and 1 or more in each"
        )
