"""Types of samples and batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from torch import Tensor

Batch = dict[str, Tensor]


Sample = Mapping[str, bytes]


class Transform(Protocol):
    """Bytes of a sample to tensors. All randomness comes from `rng`, which depends on (seed, epoch, sample)."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Batch: ...
