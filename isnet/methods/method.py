"""Base of the other methods' training steps.

Phases, weighted terms, and gradients of one network alone.
"""

from __future__ import annotations

import importlib
import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import ClassVar

import torch
from torch import Tensor, nn

from isnet import losses
from isnet.errors import InputError
from isnet.losses import GanKind
from isnet.methods.architecture import MethodGenerator
from isnet.perceptual import Perceptual
from isnet.spectral_norm import weight_leaves
from isnet.training.batch_norm import joined_batch_norm
from isnet.training.distributed import SumReducer
from isnet.training.players import Metrics, MicroBatch, Players, StepSettings


@dataclass(frozen=True, kw_only=True)
class MethodSettings(StepSettings):
    """Settings of the other methods' steps.

    Attributes:
        loss: Weights by term.
        gan: Adversarial loss, where a method has a choice.
        min_hole_ratio: Lower bound of a divisor by the hole ratio.
        released: The released code's form where it differs (docs/methods.md).
        phases: Steps of each phase but the last.
        phase_rates: Factor of the learning rates in each phase; empty for 1.
        size: Side of a training picture, for discriminators of a fixed size.
        discriminator_width: Channels of a discriminator's first layer.
        critic_steps: Steps of the critics for one of G (CA).
    """

    loss: Mapping[str, float] = field(default_factory=dict)
    gan: GanKind = "nsgan"
    min_hole_ratio: float = 0.01
    released: bool = False
    phases: tuple[int, ...] = ()
    phase_rates: tuple[float, ...] = ()
    size: int = 256
    discriminator_width: int = 64
    critic_steps: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(math.isfinite(weight) and weight >= 0 for weight in self.loss.values()):
            raise InputError(f"loss weights are {dict(self.loss)}; need finite numbers from 0")


class Method(Players):
    """A method under training.

    The number of steps taken is part of the state: it decides the phase, and which networks a step moves.
    """

    # BatchNorm joins the samples of a batch: ranks take part in each other's, micro-batches cannot.
    batch_norm: ClassVar[bool] = False

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        settings: MethodSettings,
        *,
        device: torch.device | str,
        parts: Mapping[str, nn.Module] | None = None,
        perceptual: nn.Module | None = None,
    ) -> None:
        self.settings = settings
        self.perceptual = perceptual.to(torch.device(device)) if perceptual is not None else None
        super().__init__(networks, settings, device=device, parts=parts)

    def frozen(self) -> list[nn.Module]:
        """The network behind the perceptual loss, if there is one."""
        return [self.perceptual] if self.perceptual is not None else []

    def phase_starts(self) -> list[int]:
        """First step of each phase."""
        return [0, *accumulate(self.settings.phases)]

    @property
    def phase(self) -> int:
        """Phase of the next step, from 1."""
        return 1 + sum(self.done >= end for end in accumulate(self.settings.phases))

    def counters(self) -> dict[str, float | int | str]:
        """Steps taken, and the phase they lead to."""
        return {"steps": self.done, "phase": self.phase}

    def load_counters(self, counters: Mapping[str, float | int | str]) -> None:
        """Restores what `counters` returned."""
        self.done = int(counters["steps"])

    def step(self, micro_batches: Sequence[MicroBatch], *, global_batch: int, reduce: SumReducer) -> Metrics:
        """Takes one global step, and counts it."""
        if self.batch_norm and len(micro_batches) != 1:
            raise InputError(
                f"this rank has micro-batches of {[len(batch[0]) for batch in micro_batches]} samples; BatchNorm needs "
                "all samples of a rank at once"
            )
        # Other ranks have the rest of the batch.
        is_divided = self.batch_norm and len(micro_batches[0][0]) < global_batch
        networks = [*self._networks.values(), *self.frozen()] if is_divided else []
        rates = self.settings.phase_rates
        with self._scaled_rates(rates[self.phase - 1] if rates else 1.0), joined_batch_norm(networks, reduce):
            metrics = super().step(micro_batches, global_batch=global_batch, reduce=reduce)
        self.done += 1
        return metrics

    @contextmanager
    def _scaled_rates(self, factor: float) -> Iterator[None]:
        # The schedule sets the rates before every step, and knows no phases.
        groups = [group for optimizer in self._optimizers.values() for group in optimizer.param_groups]
        rates = [group["lr"] for group in groups]
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate * factor
        try:
            yield
        finally:
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate

    def _weight(self, term: str) -> float:
        return self.settings.loss.get(term, 0.0)

    def _descend(self, terms: Metrics, *parts: str, keep_graph: bool = False) -> Metrics:
        """Adds the gradient of the weighted terms to `parts` alone.

        Returns the terms before their weights, and their weighted sum as `generator`.
        """
        total = torch.stack([self._weight(name) * value for name, value in terms.items()]).sum()
        self._backward(total, *parts, keep_graph=keep_graph)
        return {name: value.detach() for name, value in terms.items()} | {"generator": total.detach()}

    def _backward(self, loss: Tensor, *parts: str, keep_graph: bool = False) -> None:
        leaves = [leaf for part in parts for leaf in weight_leaves(self._parts[part])]
        torch.autograd.backward(loss, inputs=leaves, retain_graph=keep_graph)

    def _vgg_terms(
        self, fake: Tensor, real: Tensor, global_batch: int, *, style: tuple[Tensor, Tensor] | None = None
    ) -> Metrics:
        """Terms of VGG's layers whose weights are above 0.

        `style` has the pictures of the style loss where they are others.
        """
        vgg, terms = self.perceptual, Metrics()
        if not isinstance(vgg, Perceptual):
            return terms
        with self.timer.part("vgg"):
            if self._weight("perceptual") or (self._weight("style") and style is None):
                features = self._features(fake, real)
            if self._weight("perceptual"):
                terms["perceptual"] = losses.perceptual_loss(
                    *features, vgg.perceptual_layers, global_batch=global_batch
                )
            if self._weight("style"):
                features = features if style is None else self._features(*style)
                terms["style"] = losses.style_loss(*features, vgg.style_layers, global_batch=global_batch)
        return terms

    def _features(self, fake: Tensor, real: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        assert self.perceptual is not None
        with torch.no_grad():
            of_real = self.perceptual(real)
        return self.perceptual(fake), of_real

    @abstractmethod
    def _accumulate(self, batch: MicroBatch, global_batch: int, hole_ratio: Tensor | None) -> Metrics:
        """Adds one micro-batch's gradients and returns its metrics."""


def build_method(
    generator: MethodGenerator, settings: MethodSettings, *, perceptual: nn.Module | None, device: torch.device | str
) -> Method:
    """Builds the training of a generator, by its name."""
    module = importlib.import_module(f"isnet.methods.{generator.architecture.name}.step")
    method: Method = module.METHOD(generator, settings, perceptual=perceptual, device=device)
    return method
