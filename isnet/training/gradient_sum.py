"""Sum of gradients over ranks, beside other computation.

The gradients of all networks have places one after the other, and are cut into buckets of neighbours of one network.
Both depend on the parameters alone, so a resumed run has the same ones. Buckets are sent in reverse order, as backward
passes reach the last layers first: those of D while VGG and G are at work, those of G while G's first layers are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from isnet.spectral_norm import SpectralLayer, spectral_layers
from isnet.training.distributed import SumReducer

BUCKET_BYTES = 25 << 20


class EarlySum(Protocol):
    """Sum over ranks of tensors that are completed in turn."""

    def add(self, tensors: Sequence[Tensor], *, first: int) -> None:
        """Starts a sum; `first` is the first element's place."""

    def finish(self) -> None:
        """Waits until all added tensors hold their sums."""


@runtime_checkable
class EarlyReducer(SumReducer, Protocol):
    """Reducer that can sum while computation goes on."""

    def start_sum(self, total: int) -> EarlySum | None:
        """Begins a sum of `total` elements; None on one rank."""


@dataclass
class _Bucket:
    """Neighbouring parameters of one network."""

    parameters: list[nn.Parameter]
    first: int  # place of the first element
    missing: int  # gradients that are not complete


class GradientSum:
    """Sum of one step's gradients over all ranks.

    A reducer without `start_sum` sums all of them at the end.

    Args:
        reduce: Sums over ranks.
        networks: Networks that the step moves.
        collect: Turns gradients of W/σ of these layers into those of W.
    """

    def __init__(
        self,
        reduce: SumReducer,
        networks: Sequence[nn.Module],
        *,
        collect: Callable[[list[SpectralLayer]], None] = lambda layers: None,
    ) -> None:
        self._reduce, self._collect = reduce, collect
        self._layers: dict[int, SpectralLayer] = {
            id(layer.weight): layer for network in networks for layer in spectral_layers(network)
        }
        self._parameters = [p for network in networks for p in network.parameters()]
        self._buckets = _buckets(networks)
        self._running = reduce.start_sum(_count(self._parameters)) if isinstance(reduce, EarlyReducer) else None
        self._num_started = 0
        self._hooks: list[Any] = []

    def watch(self) -> None:
        """Sends each bucket as soon as its gradients are complete.

        Call it before the last micro-batch, while W/σ is held. That one must run backward to each weight once.
        """
        if self._running is None:
            return
        for bucket in self._buckets:
            for parameter in bucket.parameters:
                layer = self._layers.get(id(parameter))
                leaf = parameter if layer is None or layer.effective is None else layer.effective
                complete = partial(self._complete, bucket)
                self._hooks.append(leaf.register_post_accumulate_grad_hook(complete))  # type: ignore[no-untyped-call]

    def finish(self) -> None:
        """Sums the gradients that are left, and waits for all."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        if self._running is None:
            self._reduce.sum_([p.grad for p in self._parameters if p.grad is not None])
            return
        self._start(self._buckets[self._num_started :])
        self._running.finish()

    def _complete(self, bucket: _Bucket, leaf: Tensor) -> None:
        bucket.missing -= 1
        if bucket.missing < 0:
            raise RuntimeError("a gradient came after its sum had begun: this method goes backward to a weight twice")
        # In their order, whichever is complete first: all ranks must send the same bucket at the same time.
        ready = self._num_started
        while ready < len(self._buckets) and self._buckets[ready].missing == 0:
            ready += 1
        self._start(self._buckets[self._num_started : ready])

    def _start(self, buckets: Sequence[_Bucket]) -> None:
        assert self._running is not None
        layers = [self._layers[id(p)] for bucket in buckets for p in bucket.parameters if id(p) in self._layers]
        # After the step's passes there is nothing to collect.
        if waiting := [layer for layer in layers if layer.effective is not None]:
            self._collect(waiting)
        for bucket in buckets:
            self._running.add([p.grad for p in bucket.parameters if p.grad is not None], first=bucket.first)
        self._num_started += len(buckets)


def _buckets(networks: Sequence[nn.Module]) -> list[_Bucket]:
    """Cuts the parameters into buckets, the last one first."""
    buckets: list[_Bucket] = []
    place = 0
    for network in networks:
        start_of_network, num_bytes = len(buckets), 0
        for parameter in network.parameters():
            if len(buckets) == start_of_network or num_bytes >= BUCKET_BYTES:
                buckets.append(_Bucket([], place, 0))
                num_bytes = 0
            if parameter.requires_grad:
                buckets[-1].parameters.append(parameter)
                buckets[-1].missing += 1
                num_bytes += parameter.numel() * parameter.element_size()
                place += parameter.numel()
    return [bucket for bucket in reversed(buckets) if bucket.parameters]


def _count(parameters: Sequence[nn.Parameter]) -> int:
    return sum(p.numel() for p in parameters if p.requires_grad)
