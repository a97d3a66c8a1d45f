"""Holes of a training run: a generator by name, or the masks of a packed dataset (`isnet data pack … --kind masks`).

    draw = holes("irregular")                         # a function (height, width, rng) -> bool (height, width)
    draw = holes("s3://bucket/masks-train")           # the same, drawing one of its masks each time

Not covered: which hole a held-out picture gets (isnet_task.py), evaluation's fixed list (evaluating.py).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, cast

import numpy as np

from isnet.mask_files import read_mask
from isnet.masks import GENERATORS, Generator, Hole, generator
from jobs.config import ISNetConfig
from trainplane.cluster.context import Context
from trainplane.data.manifest import Dataset
from trainplane.errors import UserError, nearest

# Held encoded by every process that decodes; 55,000 masks of 512 px are about 150 MB.
MAX_BYTES = 256 * 2**20


class MaskSet:
    """The masks of one dataset, white = hole as packed. Pickles as its address; reads all of them at the first use."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._encoded: list[bytes] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return MaskSet, (self.address,)

    def __call__(self, height: int, width: int, rng: np.random.Generator) -> Hole:
        """One of the masks, each as likely as any other, nearest neighbour to this size."""
        return self.hole(int(rng.integers(len(self._masks()))), height, width)

    def hole(self, index: int, height: int, width: int) -> Hole:
        """Mask number `index`, going round."""
        masks = self._masks()
        return read_mask(masks[index % len(masks)], size=(height, width)).hole

    def _masks(self) -> list[bytes]:
        if self._encoded is None:
            dataset = Dataset.open(self.address)
            samples = dataset.read_samples(range(dataset.num_samples))
            self._encoded = [sample["png"] for sample in samples]
        return self._encoded


@lru_cache(maxsize=4)
def holes(masks: str) -> Generator:
    """What draws a run's holes: `masks` is a generator's name or the full address of a mask dataset."""
    return generator(masks) if masks in GENERATORS else cast("Generator", MaskSet(masks))


def located(masks: str, context: Context) -> tuple[str, str | None]:
    """(address, digest) of the mask dataset a user named; a generator's name as it is, without a digest.

    Raises `UserError` where there is neither, the dataset holds no masks, or it is too large to keep in memory.
    """
    if masks in GENERATORS:
        return masks, None
    try:
        dataset = Dataset.open(context.dataset(masks))
    except UserError as error:
        raise UserError(
            f"masks {masks!r} are no generator{nearest(masks, list(GENERATORS))} (there are {', '.join(GENERATORS)}) "
            f"and no mask dataset: {error}"
        ) from error
    if dataset.manifest.packed.get("kind") != "masks":
        raise UserError(f"{masks!r} holds pictures, not masks; pack masks with `isnet data pack … --kind masks`")
    if dataset.bytes > MAX_BYTES:
        raise UserError(
            f"masks {masks!r} take {dataset.bytes / 2**20:.0f} MiB, every decoding process keeps them in memory, and "
            f"the limit is {MAX_BYTES / 2**20:.0f}; pack them again with --max-side, or fewer"
        )
    return dataset.address, dataset.digest


def with_located_masks(config: ISNetConfig, context: Context) -> ISNetConfig:
    """`config` with the addresses and digests of the mask datasets it names, so that any worker finds them and the
    run's identity tells one set of holes from another."""
    found: dict[str, str | None] = {}
    for name in ("masks", "val_masks"):
        if (masks := getattr(config.data, name)) is not None:
            found[name], found[f"{name}_digest"] = located(masks, context)
    return config.model_copy(update={"data": config.data.model_copy(update=found)})
