"""No loader at all: pictures in memory, decoded and cropped one after the other in one process, as our transform does.

What this takes per picture is what no loader can be below.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from jobs.bench.readers.ours import transform_of
from jobs.bench.readers.serving import Open, Spec, serve
from trainplane.data.manifest import Dataset
from trainplane.data.read.fetch import read_samples

_HELD = 512  # pictures; far more than any cache of a processor holds


def opened(spec: Spec) -> Open:
    dataset = Dataset.open(spec["address"])
    samples = read_samples(dataset, range(min(_HELD, dataset.num_samples)))
    transform = transform_of(spec)
    rng = np.random.default_rng(spec["seed"])

    @contextmanager
    def stream(*, workers: int, start: int) -> Iterator[Iterator[int]]:
        def batches() -> Iterator[int]:
            at = 0
            while True:
                for _ in range(spec["batch"]):
                    transform(samples[at % len(samples)], rng)
                    at += 1
                yield spec["batch"]

        yield batches()

    return stream


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(opened)
