"""Scores a model on a list of pairs.

A score depends on picture, hole, model and definition alone, so this process or any Ray task can compute it.
"""

from __future__ import annotations

import csv
import io
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from isnet.images.crops import center_square, resize
from isnet.images.decode import decode_rgb
from isnet.inference.predictor import Refine
from isnet.mask_files import read_mask, resize_like_loader
from isnet.masks import RATIO_BINS, Hole, bin_range, generator, hole_ratio, irregular, ratio_bin
from isnet.metrics import METRICS, Definition, composite, measure
from jobs.cli.progress import bar
from jobs.cluster.worker_pool import portable_context, run_shares
from jobs.data.mask_datasets import mask_bytes
from jobs.data.samples import picture_bytes
from jobs.evaluation.models import Model, worker_model
from jobs.evaluation.pairs import Pairing
from jobs.evaluation.perceptual import Networks, PairFeatures
from trainplane.cluster.context import Context
from trainplane.data.manifest import Dataset
from trainplane.data.read.fetch import read_samples

Pixels = NDArray[np.uint8]
# Bin of holes above the paper's bins.
BEYOND = "60-100"
ALL_BINS = (*RATIO_BINS, BEYOND)
# Pairs of one task: enough that computing costs more than sending, few enough that a lost worker costs little.
PAIRS_PER_TASK = 64


@dataclass(frozen=True)
class Score:
    """Metrics of one pair."""

    pair: int
    picture: int
    key: str
    ratio: float  # share of the hole, 0 to 1
    hole_crc32: int  # of the hole's bits, to compare holes
    seconds: float  # of the prediction on this machine
    psnr: float  # dB
    ssim: float
    l1_percent: float  # L1 of the composite, percent
    l1_hole: float  # 0 to 1
    lpips: float | None = None  # where it was asked for

    @property
    def bin(self) -> str:
        """Ratio bin of the hole."""
        return ratio_bin(self.ratio) or BEYOND


@dataclass(frozen=True)
class ScoredPair:
    """Measurements of one prediction."""

    scores: tuple[Score, ...]  # one for each definition, the main one first
    features: PairFeatures | None = None  # for FID, where it was asked for


@dataclass(frozen=True)
class View:
    """Picture and hole of a pair."""

    pair: int
    picture: int
    key: str
    pixels: Pixels  # uint8 (H, W, 3); when it is measured, a square of the list's size
    hole: Hole  # bool (H, W), True in the hole


@dataclass(frozen=True)
class EvalSet:
    """Data of an evaluation; pickles as addresses."""

    dataset: Dataset
    mask_set: Dataset | None
    pairing: Pairing
    definition: Definition
    also: tuple[Definition, ...] = ()  # further definitions, of the same predictions
    refine: Refine = "off"  # auto: as `isnet inpaint` fills, coarse to fine

    @property
    def definitions(self) -> tuple[Definition, ...]:
        """All definitions, the main one first."""
        return self.definition, *self.also

    def views(self, numbers: Sequence[int]) -> Iterator[View]:
        """Yields pairs; files of `PAIRS_PER_TASK` are in memory at once."""
        for start in range(0, len(numbers), PAIRS_PER_TASK):
            yield from self._views_of_block(numbers[start : start + PAIRS_PER_TASK])

    def _views_of_block(self, numbers: Sequence[int]) -> Iterator[View]:
        # Read each picture and mask once.
        pairs = [(number, *self.pairing.pairs[number]) for number in numbers]
        samples = _read(self.dataset, {picture for _, picture, _ in pairs})
        masks = {} if self.mask_set is None else _read(self.mask_set, {hole for _, _, hole in pairs})
        size, decoded = self.pairing.size, (-1, np.empty(0, np.uint8))
        for number, picture, hole in pairs:
            # With a generator, pairs of one picture follow each other: decode it once.
            if decoded[0] != picture:
                with self.dataset.decoding(picture):
                    rgb = decode_rgb(picture_bytes(samples[picture]), shortest=size)
                decoded = picture, center_square(rgb, size)
            key = samples[picture]["__key__"].decode("utf-8", "replace")
            drawn = self._generated(hole, size, size) if self.mask_set is None else _packed(self.mask_set, masks, hole)
            # Generated holes have this size already; loading changes them too, except with `nearest`.
            hole_HW = resize_like_loader(drawn, size, size, loader=self.pairing.loading)
            yield View(number, picture, key, decoded[1], hole_HW)

    def whole_photo(self, number: int, *, max_pixels: float) -> View:
        """Reads a pair's whole photo, with a hole.

        A generated hole is drawn at that size, with the same share of the picture.

        Args:
            number: of the pair.
            max_pixels: larger photos are made smaller.
        """
        picture, hole = self.pairing.pairs[number][0], self.pairing.pairs[number][1]
        sample = _read(self.dataset, {picture})[picture]
        with self.dataset.decoding(picture):
            rgb = decode_rgb(picture_bytes(sample))
        height, width = rgb.shape[:2]
        if height * width > max_pixels:
            scale = (max_pixels / (height * width)) ** 0.5
            height, width = max(1, round(height * scale)), max(1, round(width * scale))
            rgb = resize(rgb, height, width)
        if self.mask_set is None:
            drawn = self._generated(hole, height, width)
        else:
            drawn = _packed(self.mask_set, _read(self.mask_set, {hole}), hole)
        hole_HW = resize_like_loader(drawn, height, width, loader=self.pairing.loading)
        return View(number, picture, sample["__key__"].decode("utf-8", "replace"), rgb, hole_HW)

    def _generated(self, number: int, height: int, width: int) -> Hole:
        # Counter-based, so each hole has its own seed and any process draws the same.
        rng = np.random.Generator(np.random.Philox(key=[self.pairing.seed, number]))
        if self.pairing.masks == "irregular":
            return irregular(height, width, rng, ratio=bin_range(RATIO_BINS[number % len(RATIO_BINS)]))
        return generator(self.pairing.masks)(height, width, rng)


def _packed(mask_set: Dataset, masks: dict[int, dict[str, bytes]], number: int) -> Hole:
    with mask_set.decoding(number):
        return read_mask(mask_bytes(masks[number], mask_set.address)).hole


def _read(dataset: Dataset, numbers: set[int]) -> dict[int, dict[str, bytes]]:
    ordered = sorted(numbers)
    return dict(zip(ordered, read_samples(dataset, ordered), strict=True))


def score(model: Model, view: View, definitions: Sequence[Definition], networks: Networks | None = None) -> ScoredPair:
    """Fills a hole and measures the composite against the picture."""
    # Only the prediction is timed.
    truth = view.pixels.astype(np.float32) / np.float32(255)
    started = time.perf_counter()
    predicted = model.filler.predict(truth, view.hole)
    seconds = time.perf_counter() - started
    # `measure` wants 1 for valid pixels and 0 in the hole.
    mask_B1HW = torch.from_numpy(~view.hole)[None, None].float()
    pair: dict[str, Any] = {
        "pair": view.pair,
        "picture": view.picture,
        "key": view.key,
        "ratio": hole_ratio(view.hole),
        "hole_crc32": zlib.crc32(np.packbits(view.hole).tobytes()),
        "seconds": seconds,
    }
    pred_13HW, truth_13HW = _batch(predicted), _batch(truth)
    measured = [measure(pred_13HW, truth_13HW, mask_B1HW, definition=name) for name in definitions]
    features = None
    if networks is not None:
        filled_13HW = composite(pred_13HW.clamp(0, 1), truth_13HW, mask_B1HW)
        pair["lpips"] = networks.distance(filled_13HW, truth_13HW)
        features = networks.features(filled_13HW, truth_13HW)
    scores = tuple(Score(**(pair | {name: float(metrics[name][0]) for name in METRICS})) for metrics in measured)
    return ScoredPair(scores, features)


def score_here(model: Model, eval_set: EvalSet, networks: Networks | None = None) -> list[ScoredPair]:
    """Scores all pairs in this process."""
    numbers = range(len(eval_set.pairing.pairs))
    views = bar(eval_set.views(numbers), "evaluate", total=len(numbers))
    return [score(model, view, eval_set.definitions, networks) for view in views]


def score_on_ray(
    model: Model, eval_set: EvalSet, context: Context, *, tasks: int, networks: Networks | None = None
) -> list[ScoredPair]:
    """Scores all pairs in `tasks` Ray tasks at once."""
    numbers = range(len(eval_set.pairing.pairs))
    shares = [list(numbers[start : start + PAIRS_PER_TASK]) for start in range(0, len(numbers), PAIRS_PER_TASK)]
    shared = (model.pinned, eval_set, portable_context(context), networks)
    scored: list[ScoredPair] = []
    for share in bar(run_shares(_score_share, shared, shares, tasks=tasks), "evaluate", total=len(shares)):
        scored += share
    # Shares come in the order in which tasks finish.
    return sorted(scored, key=lambda pair: pair.scores[0].pair)


def _score_share(
    shared: tuple[str, EvalSet, tuple[Context, dict[str, str]], Networks | None], numbers: list[int]
) -> list[ScoredPair]:
    address, eval_set, context, networks = shared
    with worker_model(address, context) as opened:
        model = opened.with_refine(eval_set.refine)
        return [score(model, view, eval_set.definitions, networks) for view in eval_set.views(numbers)]


def psnr_of(filled: Pixels, view: View, definition: Definition) -> float:
    """PSNR of a filled picture, dB."""
    mask_B1HW = torch.from_numpy(~view.hole)[None, None].float()
    filled_B3HW, truth_B3HW = (_batch(pixels.astype(np.float32) / np.float32(255)) for pixels in (filled, view.pixels))
    return float(measure(filled_B3HW, truth_B3HW, mask_B1HW, definition=definition)["psnr"][0])


def to_csv(scores: Sequence[Score]) -> str:
    """Formats scores as CSV at full precision."""
    text = io.StringIO()
    # A CSV writer, because keys of other people's datasets may contain commas and line breaks.
    writer = csv.writer(text, lineterminator="\n")
    names = _columns(scores)
    writer.writerow([*names, "bin"])
    writer.writerows([*(_cell(getattr(score, name)) for name in names), score.bin] for score in scores)
    return text.getvalue()


def _columns(scores: Sequence[Score]) -> list[str]:
    """Fields of scores; LPIPS where it was measured."""
    return [field.name for field in fields(Score) if field.name != "lpips" or "lpips" in measured_metrics(scores)]


def measured_metrics(scores: Sequence[Score]) -> tuple[str, ...]:
    """Metrics that all these scores have."""
    return (*METRICS, "lpips") if scores and all(score.lpips is not None for score in scores) else METRICS


def from_csv(text: str) -> list[Score]:
    """Parses scores that `to_csv` wrote; else raises ValueError."""
    names, *lines = csv.reader(io.StringIO(text, newline="")) if text.strip() else [[]]
    with_lpips = [field.name for field in fields(Score)]
    if names[:-1] not in (with_lpips, with_lpips[:-1]):
        raise ValueError("columns are not those of scores")
    # Types of the fields, in their order; the last column, the bin, follows from the ratio.
    kinds: list[Any] = [int, int, str, float, int, *[float] * (len(names) - 6)]
    return [Score(*(kind(cell) for kind, cell in zip(kinds, line[:-1], strict=True))) for line in lines]


def _cell(value: object) -> str:
    return repr(value) if isinstance(value, float) else str(value)


def _batch(rgb_HW3: NDArray[np.float32]) -> torch.Tensor:
    """Converts (H, W, 3) to (1, 3, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(rgb_HW3.transpose(2, 0, 1)))[None]
