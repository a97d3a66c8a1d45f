"""Bare decoding: our transform of pictures in memory.

There is no loader: pictures one by one, in one process. No loader can take less time for a picture.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from jobs.bench.readers.ours import transform_of
from jobs.bench.readers.serving import Open, Spec, main
from trainplane.data.manifest import Dataset
from trainplane.data.read.fetch import read_samples

_IN_MEMORY = 512  # pictures; far more than any cache of a processor holds


def opened(spec: Spec) -> Open:
    """Streams of bare decoding."""
    dataset = Dataset.open(spec["address"])
    # Far from the store: the pictures are read before any measurement.
    samples = read_samples(dataset, range(min(_IN_MEMORY, dataset.num_samples)))
    transform = transform_of(spec)
    rng = np.random.default_rng(spec["seed"])

    @contextmanager
    def stream(*, workers: int, start: int) -> Iterator[Iterator[int]]:
        def batches() -> Iterator[int]:
            endless = itertools.cycle(samples)
            while True:
                for sample in itertools.islice(endless, spec["batch"]):
                    transform(sample, rng)
                yield spec["batch"]

        yield batches()

    return stream


if __name__ == "__main__":
    main(opened)
