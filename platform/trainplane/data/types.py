"""Types of samples and batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from torch import Tensor

Batch = dict[str, Tensor]
"""Tensors by name, each of shape (samples, …)."""

Sample = Mapping[str, bytes]
"""Files of one sample by extension; `__key__` holds its key."""


class Transform(Protocol):
    """Decodes the bytes of one sample to tensors."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Batch:
        """Decodes a sample to tensors without the batch axis.

        All randomness comes from `rng`, which depends on (seed, epoch, sample) alone.
        """
        ...
