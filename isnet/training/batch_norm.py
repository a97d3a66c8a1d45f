"""BatchNorm on the samples of all ranks together.

    with joined_batch_norm([generator, discriminator], reduce):
        ...                                                  # forward and backward passes, of any order

Mean and variance are summed over ranks, and so are their gradients; gradients of gradients too, for R1. Every rank must
run the same passes in the same order. Not covered: micro-batches, whose samples are never there together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from isnet.training.distributed import SumReducer


class _RankSum(torch.autograd.Function):
    """Sum over ranks, as its gradient is one."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, reduce: SumReducer) -> Tensor:
        ctx.reduce = reduce
        total = tensor.contiguous().clone()
        reduce.sum_([total])
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return _RankSum.apply(gradients[0], ctx.reduce), None  # type: ignore[no-untyped-call]


@contextmanager
def joined_batch_norm(networks: Sequence[nn.Module], reduce: SumReducer) -> Iterator[None]:
    """Joins the ranks' batches in all BatchNorms of `networks`."""
    layers = [layer for network in networks for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in layers:
        layer.forward = partial(_joined, layer, reduce=reduce)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _joined(layer: nn.BatchNorm2d, x_BCHW: Tensor, *, reduce: SumReducer) -> Tensor:
    if not layer.training:
        return nn.BatchNorm2d.forward(layer, x_BCHW)
    # The mean first: a variance from sums of squares would lose its digits.
    values = x_BCHW.new_tensor([x_BCHW.numel() / x_BCHW.shape[1]])
    sums: Any = _RankSum.apply(torch.cat([x_BCHW.sum((0, 2, 3)), values]), reduce)  # type: ignore[no-untyped-call]
    count = sums[-1].detach()
    mean = (sums[:-1] / count).view(1, -1, 1, 1)
    centred = x_BCHW - mean
    squares: Any = _RankSum.apply(centred.square().sum((0, 2, 3)), reduce)  # type: ignore[no-untyped-call]
    variance = squares / count
    with torch.no_grad():
        assert layer.running_mean is not None
        assert layer.running_var is not None
        assert layer.num_batches_tracked is not None
        assert layer.momentum is not None
        layer.num_batches_tracked.add_(1)
        layer.running_mean.lerp_(mean.flatten(), layer.momentum)
        layer.running_var.lerp_(variance * count / (count - 1), layer.momentum)
    scale = layer.weight * torch.rsqrt(variance + layer.eps)
    normalised: Tensor = centred * scale.view(1, -1, 1, 1) + layer.bias.view(1, -1, 1, 1)
    return normalised
