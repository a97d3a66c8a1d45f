"""Sets how torch computes: speed against equal bits."""

from __future__ import annotations

import os

import torch

from trainplane.train.config import TrainConfig


def set_numerics(train: TrainConfig) -> None:
    """Sets torch's switches of this process, all of them.

    A process may train one run after the other, so nothing is left as an earlier one had it.
    """
    if train.deterministic:
        # cuBLAS reads it when its first handle is made; without it sums of a matrix product may change their order.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Operators that have no deterministic kernel warn and run: VGG's pools are among them, whose windows never overlap.
    torch.use_deterministic_algorithms(train.deterministic, warn_only=True)
    torch.backends.cudnn.deterministic = train.deterministic
    torch.backends.cudnn.benchmark = train.cudnn_benchmark
    torch.set_float32_matmul_precision(train.matmul_precision)
    # The same choice for convolutions, which torch keeps apart from matrix products.
    torch.backends.cudnn.allow_tf32 = train.matmul_precision != "highest"
