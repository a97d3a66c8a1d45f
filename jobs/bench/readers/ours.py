"""trainplane's loader, with a crop or the training transform."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from isnet.images.crops import random_crop, resize_shorter_side
from isnet.images.decode import decode_rgb
from jobs.bench.readers.serving import Open, Spec, main
from jobs.data.samples import TrainTransform
from trainplane.data.load.loader import Loader
from trainplane.data.manifest import Dataset
from trainplane.data.types import Batch, Sample, Transform


@dataclass(frozen=True)
class OurCrop:
    """Crop as `PillowCrop` with our decoder, uint8 (size, size, 3)."""

    size: int
    resize: int | None

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Batch:
        """Crop of one sample."""
        # The decoder may shrink while it decodes, which a JPEG allows.
        rgb = decode_rgb(sample["jpg"], shortest=self.resize)
        if self.resize is not None:
            rgb = resize_shorter_side(rgb, self.resize)
        return {"image": torch.from_numpy(random_crop(rgb, self.size, rng))}


def transform_of(spec: Spec) -> Transform:
    """Transform of a spec; of training where `train` is set."""
    if spec.get("train"):
        return TrainTransform(spec["size"], spec["resize"] or spec["train_resize"], True, "irregular")
    return OurCrop(spec["size"], spec["resize"])


def opened(spec: Spec) -> Open:
    """Streams of our loader."""
    dataset = Dataset.open(spec["address"])
    # The index is loaded once in a process, not in a measurement.
    _ = dataset.index
    # Every run takes the next epoch, so that none finds what another has read.
    epochs = itertools.count()

    @contextmanager
    def stream(*, workers: int, start: int) -> Iterator[Iterator[int]]:
        options: dict[str, Any] = {"seed": spec["seed"], "global_batch": spec["batch"], "workers": workers}
        with Loader(dataset, transform=transform_of(spec), **options) as loader:
            first = next(epochs) * loader.steps_per_epoch + start // spec["batch"]
            batches = loader.batches(start=first, stop=first + loader.steps_per_epoch)
            yield (len(batch["image"]) for _, batch in batches)

    return stream


if __name__ == "__main__":
    main(opened)
