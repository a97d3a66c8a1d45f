"""Measuring one model on a list of pairs: a score for each, here or as tasks of a Ray cluster.

A score depends on picture, hole, model and definition alone, so it does not matter who measures which pair. Means,
intervals and comparisons are made of scores (evaluating.py). Not here: which pair is measured (pairing.py).
"""

from __future__ import annotations

import csv
import io
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from isnet.images.crops import center_square
from isnet.images.decode import decode_rgb
from isnet.mask_files import loaded, read_mask
from isnet.masks import RATIO_BINS, Hole, bin_range, generator, hole_ratio, irregular, ratio_bin
from isnet.metrics import METRICS, Definition, measure
from jobs.cli.progress import bar
from jobs.cluster.worker_pool import portable, shares_done
from jobs.data.mask_datasets import mask_bytes
from jobs.evaluation.models import Model, worker_model
from jobs.evaluation.pairs import Pairing
from jobs.isnet_task import picture_bytes
from trainplane.cluster.context import Context
from trainplane.data.manifest import Dataset
from trainplane.data.read.fetch import read_samples

Pixels = NDArray[np.uint8]
BEYOND = "60-100"
ALL_BINS = (*RATIO_BINS, BEYOND)
# Pairs handed to a task at once: a task must cost more than its message, and a lost worker not much.
PAIRS_PER_TASK = 64


@dataclass(frozen=True)
class Score:
    """One measurement. ratio: share of the hole; hole_crc32: of its bits, so that equal holes can be told.

    seconds -- what the prediction took, on this machine as it was; psnr in dB, l1_percent in %, l1_hole 0 to 1
    """

    pair: int
    picture: int
    key: str
    ratio: float
    hole_crc32: int
    seconds: float
    psnr: float
    ssim: float
    l1_percent: float
    l1_hole: float

    @property
    def bin(self) -> str:
        return ratio_bin(self.ratio) or BEYOND


@dataclass(frozen=True)
class View:
    """What a pair looks like: picture uint8 (size, size, 3), hole bool (size, size), True in the hole."""

    pair: int
    picture: int
    key: str
    pixels: Pixels
    hole: Hole


@dataclass(frozen=True)
class Bench:
    """Where the pairs' bytes are. Pickles as addresses; tasks read their own share."""

    dataset: Dataset
    mask_set: Dataset | None
    pairing: Pairing
    definition: Definition

    def views(self, numbers: Sequence[int]) -> Iterator[View]:
        """The pairs with these numbers, the bytes of a few dozen in memory at a time."""
        for start in range(0, len(numbers), PAIRS_PER_TASK):
            yield from self._block(numbers[start : start + PAIRS_PER_TASK])

    def _block(self, numbers: Sequence[int]) -> Iterator[View]:
        pairs = [(number, *self.pairing.pairs[number]) for number in numbers]
        samples = _read(self.dataset, {picture for _, picture, _ in pairs})
        masks = {} if self.mask_set is None else _read(self.mask_set, {hole for _, _, hole in pairs})
        size, decoded = self.pairing.size, (-1, np.empty(0, np.uint8))
        for number, picture, hole in pairs:
            if decoded[0] != picture:
                with self.dataset.decoding(picture):
                    rgb = decode_rgb(picture_bytes(samples[picture]), shortest=size)
                decoded = picture, center_square(rgb, size)
            key = samples[picture]["__key__"].decode("utf-8", "replace")
            drawn = self._drawn(hole) if self.mask_set is None else _packed(self.mask_set, masks, hole)
            # Reading at the size it has already is the identity for `nearest` alone.
            yield View(number, picture, key, decoded[1], loaded(drawn, size, size, way=self.pairing.loading))

    def _drawn(self, number: int) -> Hole:
        size = self.pairing.size
        rng = np.random.Generator(np.random.Philox(key=[self.pairing.seed, number]))
        if self.pairing.masks == "irregular":
            return irregular(size, size, rng, ratio=bin_range(RATIO_BINS[number % len(RATIO_BINS)]))
        return generator(self.pairing.masks)(size, size, rng)


def _packed(mask_set: Dataset, masks: dict[int, dict[str, bytes]], number: int) -> Hole:
    with mask_set.decoding(number):
        return read_mask(mask_bytes(masks[number], mask_set.address)).hole


def _read(dataset: Dataset, numbers: set[int]) -> dict[int, dict[str, bytes]]:
    wanted = sorted(numbers)
    return dict(zip(wanted, read_samples(dataset, wanted), strict=True))


def score(model: Model, view: View, definition: Definition) -> Score:
    """Fill the pair's hole and measure the composite against the picture."""
    truth = view.pixels.astype(np.float32) / np.float32(255)
    began = time.perf_counter()
    predicted = model.filler.predict(truth, view.hole)
    seconds = time.perf_counter() - began
    mask_B1HW = torch.from_numpy(~view.hole)[None, None].float()
    found = measure(_batch(predicted), _batch(truth), mask_B1HW, definition=definition)
    return Score(
        pair=view.pair,
        picture=view.picture,
        key=view.key,
        ratio=hole_ratio(view.hole),
        hole_crc32=zlib.crc32(np.packbits(view.hole).tobytes()),
        seconds=seconds,
        **{name: float(found[name][0]) for name in METRICS},
    )


def scores_here(model: Model, bench: Bench, numbers: Sequence[int] | None = None) -> list[Score]:
    """All pairs, or these, in this process."""
    wanted = range(len(bench.pairing.pairs)) if numbers is None else numbers
    return [score(model, view, bench.definition) for view in bar(bench.views(wanted), "evaluate", total=len(wanted))]


def scores_on_ray(model: Model, bench: Bench, context: Context, *, tasks: int) -> list[Score]:
    """All pairs as Ray tasks, `tasks` at once."""
    numbers = range(len(bench.pairing.pairs))
    shares = [list(numbers[start : start + PAIRS_PER_TASK]) for start in range(0, len(numbers), PAIRS_PER_TASK)]
    held = (model.pinned, bench, portable(context))
    found: list[Score] = []
    for scores in bar(shares_done(_scores_of_share, held, shares, tasks=tasks), "evaluate", total=len(shares)):
        found += scores
    return sorted(found, key=lambda one: one.pair)


def _scores_of_share(held: tuple[str, Bench, tuple[Context, dict[str, str]]], numbers: list[int]) -> list[Score]:
    address, bench, place = held
    with worker_model(address, place) as model:
        return [score(model, view, bench.definition) for view in bench.views(numbers)]


def to_csv(scores: Sequence[Score]) -> str:
    """One line a pair, below the fields' names; floats as they are."""
    text = io.StringIO()
    # Keys of datasets that others packed may hold commas and line breaks.
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*(field.name for field in fields(Score)), "bin"])
    writer.writerows([*map(_cell, astuple(one)), one.bin] for one in scores)
    return text.getvalue()


def from_csv(text: str) -> list[Score]:
    """Scores as `to_csv` wrote them; a `ValueError` where it did not."""
    names, *lines = csv.reader(io.StringIO(text, newline="")) if text.strip() else [[]]
    if names[:-1] != [field.name for field in fields(Score)]:
        raise ValueError("columns are not those of scores")
    kinds: list[Any] = [int, int, str, float, int, *[float] * 5]
    return [Score(*(kind(cell) for kind, cell in zip(kinds, line[:-1], strict=True))) for line in lines]


def _cell(value: object) -> str:
    return repr(value) if isinstance(value, float) else str(value)


def _batch(rgb_HW3: NDArray[np.float32]) -> torch.Tensor:
    """(H, W, 3) to (1, 3, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(rgb_HW3.transpose(2, 0, 1)))[None]
