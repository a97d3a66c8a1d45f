"""Measuring a model on held-out pictures by hole ratio: which pictures, which holes, which numbers.

The list of (picture, hole) pairs is fixed by the dataset and a seed, so every model sees the same ones. Generated
masks give each picture one hole of every ratio bin; a mask dataset is paired one to one, wrapping around.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from isnet.crops import center_square
from isnet.images import decode_rgb
from isnet.mask_files import read_mask
from isnet.masks import GENERATORS, RATIO_BINS, Hole, bin_range, generator, irregular
from isnet.metrics import Tally, measure
from jobs.isnet_task import picture_bytes
from jobs.model_ref import Model
from jobs.sample_photos import ensure_sample_datasets
from trainplane.cluster.context import Context
from trainplane.config import canonical_json
from trainplane.data.manifest import Dataset
from trainplane.errors import UserError

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Pair:
    """One measurement: picture (size, size, 3), its hole (size, size), True in the hole."""

    picture: Pixels
    hole: Hole


@dataclass(frozen=True)
class Protocol:
    """What every model of a comparison is measured with. `name`: the dataset as the user called it."""

    name: str
    dataset: Dataset
    masks: str
    mask_set: Dataset | None
    size: int
    seed: int
    definition: str

    def pairs(self) -> Iterator[Pair]:
        """All pairs, always in the same order, one picture in memory at a time."""
        for index in range(self.dataset.num_samples):
            sample = self.dataset.read_samples([index])[0]
            picture = center_square(decode_rgb(picture_bytes(sample), shortest=self.size), self.size)
            for hole in self._holes(index):
                yield Pair(picture, hole)

    def _holes(self, index: int) -> Iterator[Hole]:
        if self.mask_set is not None:
            sample = self.mask_set.read_samples([index % self.mask_set.num_samples])[0]
            yield read_mask(sample["png"]).resized(self.size, self.size).hole
            return
        for number, name in enumerate(RATIO_BINS):
            rng = np.random.Generator(np.random.Philox(key=[self.seed, index * len(RATIO_BINS) + number]))
            if self.masks == "irregular":
                yield irregular(self.size, self.size, rng, ratio=bin_range(name))
            else:
                yield generator(self.masks)(self.size, self.size, rng)

    def masks_digest(self) -> str:
        """sha256 that tells one list of holes from another."""
        return hashlib.sha256(
            canonical_json(
                {
                    "masks": self.mask_set.digest if self.mask_set else self.masks,
                    "size": self.size,
                    "seed": self.seed,
                    "pairing": 1,
                }
            )
        ).hexdigest()


def protocol(
    context: Context, dataset: str, *, masks: str, size: int, seed: int = 0, definition: str = "isnet"
) -> Protocol:
    """The protocol for a dataset and masks by name or address. `size` in pixels."""
    ensure_sample_datasets([dataset], context)
    mask_set = None if masks in GENERATORS else Dataset.open(context.dataset(masks))
    if size < 16:
        raise UserError(f"size {size} is too small to measure on; need at least 16 pixels")
    return Protocol(dataset, Dataset.open(context.dataset(dataset)), masks, mask_set, size, seed, definition)


def evaluate_model(model: Model, rules: Protocol) -> dict[str, Any]:
    """Means by ratio bin and over all: {model, dataset_digest, masks_digest, definition, bins: {"10-20": {…, n}}}."""
    tally = Tally.empty()
    for pair in rules.pairs():
        truth = pair.picture.astype(np.float32) / np.float32(255)
        predicted = model.filler.predict(truth, pair.hole)
        truth_B3HW, mask_B1HW = _batch(truth), torch.from_numpy(~pair.hole)[None, None].float()
        found = measure(_batch(predicted), truth_B3HW, mask_B1HW, definition=rules.definition)  # type: ignore[arg-type]
        tally = tally.plus(found, mask_B1HW)
    return {
        "model": model.address,
        "dataset": rules.name,
        "dataset_digest": rules.dataset.digest,
        "masks_digest": rules.masks_digest(),
        "definition": rules.definition,
        "masks": rules.mask_set.address if rules.mask_set else rules.masks,
        "size": rules.size,
        "seed": rules.seed,
        "bins": {"all": tally.overall(), **tally.table()},
    }


def _batch(rgb_HW3: NDArray[np.float32]) -> torch.Tensor:
    """(H, W, 3) to (1, 3, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(rgb_HW3.transpose(2, 0, 1)))[None]


def table(evaluations: list[dict[str, Any]]) -> str:
    """Evaluations as text: one block a model, a row a bin."""
    lines = []
    for evaluation in evaluations:
        lines.append(f"{evaluation['model']} ({evaluation['definition']} definition, {evaluation['size']} px)")
        lines.append(f"  {'hole %':<8}{'n':>6}{'PSNR dB':>10}{'SSIM':>9}{'L1 %':>8}{'L1 hole':>10}")
        for name, row in evaluation["bins"].items():
            if row:
                numbers = f"{row['psnr']:>10.2f}{row['ssim']:>9.4f}{row['l1_percent']:>8.2f}{row['l1_hole']:>10.4f}"
                lines.append(f"  {name:<8}{row['n']:>6}{numbers}")
    return "\n".join(lines)
