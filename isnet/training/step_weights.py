"""Normalised weights of a training step, all layers together.

A step needs u, v and σ of a hundred layers; one by one they are thousands of small operators, and on a GPU their
launches take longer than the arithmetic. Here layers of one shape are stacked into one batch, the vectors of all layers
lie in tables padded with zeros, and norms and σ are reductions of a table.

    weights = StepWeights(network)
    with weights.held(iterations=1):       # u and v move once, W/σ is a leaf tensor of each layer
        ...                                # any number of passes forward and backward
                                           # the sum of their gradients has become that of W

Not covered: use without a step, where each layer computes W/σ itself (`spectral_norm`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isnet.spectral_norm import EPS, SpectralLayer, spectral_layers


@dataclass
class _Group:
    """Layers of one shape, neighbours in the tables."""

    layers: list[SpectralLayer]
    first: int  # row of the first layer
    store: Tensor  # W/σ, (n, *shape of W), kept from step to step
    leaves: list[Tensor]  # its slices, one a layer
    moves: bool  # u and v move; a frozen layer keeps them

    @property
    def rows(self) -> slice:
        """Rows of the tables."""
        return slice(self.first, self.first + len(self.layers))


class StepWeights:
    """Normalised weights of one network, for step after step.

    Args:
        network: Its normalised layers, frozen ones included.
        stack: Layers of one shape are one batch. On a processor, where a launch costs less than a copy of the weights,
            each is better off alone.
    """

    def __init__(self, network: nn.Module, *, stack: bool = True) -> None:
        self._layers = spectral_layers(network)
        self._stack = stack
        self._kind: object = None

    @contextmanager
    def held(self, *, iterations: int = 0, dtype: torch.dtype | None = None) -> Iterator[None]:
        """Holds W/σ for all passes inside the block.

        On a clean exit the gradients that `collect` has not taken become those of W.

        Args:
            iterations: Power iterations before, of the layers that are not frozen.
            dtype: Of W/σ where it is not that of W. Gradients of several passes are then added up in it, so call
                `collect` after each micro-batch.
        """
        try:
            self._hold(iterations, dtype)
            yield
            self.collect()
        finally:
            for layer in self._layers:
                layer.effective = None

    @torch.no_grad()
    def iterate(self, times: int) -> None:
        """Improves u and v; frozen layers keep theirs."""
        if self._layers:
            self._prepare(None)
            self._move([_matrices(_stacked(group.layers), group) for group in self._groups], times)

    @torch.no_grad()
    def collect(self, among: Collection[SpectralLayer] | None = None) -> None:
        """Turns the gradients of W/σ so far into W's.

        Args:
            among: Layers to look at; None: all.
        """
        chosen = None if among is None else {id(layer) for layer in among}
        runs = [run for group in self._groups for run in _runs(group, chosen)] if self._layers else []
        if not runs:
            return
        gradients = [_gradients(group.leaves[run]) for group, run in runs]
        # <G, W> of each layer: over the columns of each row, then over the rows. The order of the additions does not
        # depend on the layers that happen to be together.
        for (group, run), gradient in zip(runs, gradients, strict=True):
            rows = slice(group.first + run.start, group.first + run.stop)
            # A stack of several is a copy, and may be overwritten.
            raw = _stacked(group.layers[run])
            product = raw.mul_(gradient) if len(raw) > 1 else raw * gradient
            columns = _turned(product, group)
            torch.sum(columns, (2, 3, 4), out=self._sums[rows, : columns.shape[1]])
        # dL/dW = G/σ - (<G, W/σ>/σ) u vᵀ (see `spectral_norm`).
        scaled_u = self._u * (self._sums.sum(1, keepdim=True) / self._sigma.square())
        added: list[tuple[Tensor, Tensor]] = []
        for (group, run), gradient in zip(runs, gradients, strict=True):
            rows = slice(group.first + run.start, group.first + run.stop)
            divisor = self._sigma[rows].view(-1, 1, 1, 1, 1)
            # In W's type, whichever the passes had.
            total = gradient.div_(divisor) if gradient.dtype == divisor.dtype else gradient / divisor
            turned = _turned(total, group)
            count, height, *rest = turned.shape
            left = scaled_u[rows, :height].view(count, height, 1, 1, 1)
            right = self._v[rows, : rest[0] * rest[1] * rest[2]].view(count, 1, *rest)
            turned.addcmul_(left, right, value=-1)
            for layer, part in zip(group.layers[run], total.unbind(), strict=True):
                # Adds to a gradient that is already there, as autograd does.
                if layer.weight.grad is None:
                    layer.weight.grad = part
                else:
                    added.append((layer.weight.grad, part))
        if added:
            torch._foreach_add_([total for total, _ in added], [part for _, part in added])

    @torch.no_grad()
    def _hold(self, iterations: int, dtype: torch.dtype | None) -> None:
        if not self._layers:
            return
        self._prepare(dtype)
        raw = [_stacked(group.layers) for group in self._groups]
        self._move([_matrices(stack, group) for stack, group in zip(raw, self._groups, strict=True)], iterations)
        for stack, group in zip(raw, self._groups, strict=True):
            torch.div(stack, self._sigma[group.rows].view(-1, 1, 1, 1, 1), out=group.store)
            for layer, leaf in zip(group.layers, group.leaves, strict=True):
                leaf.grad = None
                layer.effective = leaf

    def _move(self, matrices: Sequence[Tensor], times: int) -> None:
        # Iterates, then computes σ = uᵀWv of all layers.
        torch._foreach_copy_(self._u_rows, [layer.u for layer in self._ordered])
        torch._foreach_copy_(self._v_rows, [layer.v for layer in self._ordered])
        pairs = list(zip(matrices, self._groups, strict=True))
        u, v, image = self._u[: self._moving], self._v[: self._moving], self._image[: self._moving]
        for _ in range(times if self._moving else 0):
            # v before u, as the released code; torch's parametrisation has the opposite order (ISNET.md §4).
            for matrix, group in pairs:
                if group.moves:
                    height, width = matrix.shape[1:]
                    row = self._u[group.rows, None, :height]
                    torch.bmm(row, matrix, out=self._v[group.rows, None, :width])
            v.div_(_lengths(v))
            self._apply([pair for pair in pairs if pair[1].moves])
            torch.div(image, _lengths(image), out=u)
        # Wv of the layers that have moved is there.
        self._apply([pair for pair in pairs if not (times and pair[1].moves)])
        torch.sum(self._u * self._image, 1, keepdim=True, out=self._sigma)
        if times and self._moving:
            moved = self._ordered[: self._moving]
            torch._foreach_copy_([layer.u for layer in moved], self._u_rows[: self._moving])
            torch._foreach_copy_([layer.v for layer in moved], self._v_rows[: self._moving])

    def _apply(self, pairs: Sequence[tuple[Tensor, _Group]]) -> None:
        # Wv, into the table of images.
        for matrix, group in pairs:
            height, width = matrix.shape[1:]
            torch.bmm(matrix, self._v[group.rows, :width, None], out=self._image[group.rows, :height, None])

    def _prepare(self, dtype: torch.dtype | None) -> None:
        # Memory lasts until layers are frozen, or get another type, device or order.
        first = self._layers[0].weight
        frozen = [not layer.weight.requires_grad for layer in self._layers]
        kind = (frozen, [layer.channels_last for layer in self._layers], first.dtype, first.device, dtype)
        if kind == self._kind:
            return
        by_shape: dict[object, list[SpectralLayer]] = {}
        for number, layer in enumerate(self._layers):
            key = (
                not layer.weight.requires_grad,
                layer.rows_dim,
                layer.weight.shape,
                layer.channels_last,
                0 if self._stack else number,
            )
            by_shape.setdefault(key, []).append(layer)
        self._groups: list[_Group] = []
        self._ordered: list[SpectralLayer] = []
        # Layers that move come first: their rows are one slice.
        for layers in sorted(by_shape.values(), key=lambda layers: not layers[0].weight.requires_grad):
            self._groups.append(_new_group(layers, len(self._ordered), dtype or first.dtype))
            self._ordered += layers
        self._moving = frozen.count(False)
        height, width = (max(getattr(layer, name).numel() for layer in self._layers) for name in ("u", "v"))
        # Tables: a row a layer, zero behind its vector. `image` is Wv.
        count = len(self._layers)
        self._u, self._image, self._sums = (first.detach().new_zeros(count, height) for _ in range(3))
        self._v, self._sigma = first.detach().new_zeros(count, width), first.detach().new_ones(count, 1)
        self._u_rows = [row[: layer.u.numel()] for row, layer in zip(self._u.unbind(), self._ordered, strict=True)]
        self._v_rows = [row[: layer.v.numel()] for row, layer in zip(self._v.unbind(), self._ordered, strict=True)]
        self._kind = kind


def power_iteration(network: nn.Module, *, times: int = 1) -> None:
    """Improves u and v of every layer by `times` iterations.

    A frozen layer keeps them, so that it stays the same function.
    """
    StepWeights(network).iterate(times)


@contextmanager
def step_weights(*networks: nn.Module, dtype: torch.dtype | None = None) -> Iterator[None]:
    """Holds W/σ of networks for all passes inside the block."""
    with ExitStack() as stack:
        for network in networks:
            stack.enter_context(StepWeights(network).held(dtype=dtype))
        yield


def _new_group(layers: list[SpectralLayer], first: int, dtype: torch.dtype) -> _Group:
    weight = layers[0].weight.detach()
    shape = (len(layers), *weight.shape)
    if layers[0].channels_last:
        count, height, depth, *kernel = shape
        store = weight.new_empty(count, height, *kernel, depth, dtype=dtype).permute(0, 1, 4, 2, 3)
    else:
        store = weight.new_empty(shape, dtype=dtype)
    moves = layers[0].weight.requires_grad
    # They take gradients where the parameters do, so that a frozen network stays frozen.
    leaves = [part.detach().requires_grad_(moves) for part in store.unbind()]
    return _Group(layers, first, store, leaves, moves)


def _stacked(layers: Sequence[SpectralLayer]) -> Tensor:
    """Raw weights as (n, *shape of W); one layer's uncopied."""
    weights = [layer.weight.detach() for layer in layers]
    if len(weights) == 1:
        return weights[0][None]
    # Flat: torch's kernel for concatenation takes four dimensions at most.
    return torch.cat([weight.reshape(-1) for weight in weights]).view(len(weights), *weights[0].shape)


def _turned(stack: Tensor, group: _Group) -> Tensor:
    """View of (n, *shape of W) with output channels second."""
    return stack.transpose(1, 1 + group.layers[0].rows_dim)


def _matrices(stack: Tensor, group: _Group) -> Tensor:
    """Weights as (n, output channels, all others)."""
    return _turned(stack, group).flatten(2)


def _lengths(table: Tensor) -> Tensor:
    """Euclidean norm of each row, at least EPS, (n, 1)."""
    lengths: Tensor = torch.linalg.vector_norm(table, dim=1, keepdim=True)
    return lengths.clamp_min_(EPS)


def _runs(group: _Group, chosen: set[int] | None) -> Iterator[tuple[_Group, slice]]:
    """Neighbours of a group that have a gradient to collect."""
    has = [
        leaf.grad is not None and (chosen is None or id(layer) in chosen)
        for layer, leaf in zip(group.layers, group.leaves, strict=True)
    ]
    start = 0
    for place, is_there in enumerate([*has, False]):
        if not is_there:
            if place > start:
                yield group, slice(start, place)
            start = place + 1


def _gradients(leaves: Sequence[Tensor]) -> Tensor:
    """Takes gradients of W/σ, contiguous (n, *shape of W)."""
    gradients = []
    for leaf in leaves:
        assert leaf.grad is not None
        gradients.append(leaf.grad)
        leaf.grad = None
    first = gradients[0]
    # Flattened in the order in which they lie in memory, where that is NHWC for all of them.
    is_nhwc = not first.is_contiguous() and all(g.is_contiguous(memory_format=torch.channels_last) for g in gradients)
    ordered = [g.permute(0, 2, 3, 1) for g in gradients] if is_nhwc else gradients
    if len(ordered) == 1:
        stack = ordered[0][None]
    else:
        stack = torch.cat([g.reshape(-1) for g in ordered]).view(len(ordered), *ordered[0].shape)
    return (stack.permute(0, 1, 4, 2, 3) if is_nhwc else stack).contiguous()
