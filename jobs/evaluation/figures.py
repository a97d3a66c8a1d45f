"""Pictures of a report.

One whole photo, representative pairs, and the worst pairs. Each shows damaged, every method, and the truth, like Fig. 3
of the paper.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from isnet.images.crops import resize
from isnet.masks import RATIO_BINS
from jobs.evaluation.models import Model
from jobs.evaluation.paper_tables import PAPER_BINS
from jobs.evaluation.scores import ALL_BINS, EvalSet, Pixels, Score, View, psnr_of
from trainplane.tracking.images import strip

NUM_WORST = 10
# Of the whole photo: enough for most, and a page of six methods stays below some megabytes.
MAX_PHOTO_PIXELS = 1 << 20
# Time and memory that a method may take for the whole photo.
_PHOTO_SECONDS, _PHOTO_BYTES = 20.0, 2 << 30
# Width of a strip of the sheet, pixels: a whole photo of many models is drawn smaller.
_SHEET = 2400
# Width of a letter in captions of a strip, pixels, and letters of a name there.
_LETTER, _MAX_NAME = 6, 40


@dataclass(frozen=True)
class Panel:
    """Picture with its caption."""

    caption: str
    pixels: Pixels  # uint8 (H, W, 3)
    note: str = ""


@dataclass(frozen=True)
class PanelRow:
    """Panels of one pair under a title."""

    title: str
    panels: tuple[Panel, ...]


def representative_pairs(scores: Sequence[Score]) -> list[Score]:
    """Chooses the pair of median PSNR in each bin."""
    # The paper's bins, or all bins where none of the paper's has a pair.
    bins = [name for name in PAPER_BINS if any(score.bin == name for score in scores)] or list(ALL_BINS)
    chosen: list[Score] = []
    for name in bins:
        ranked = sorted((score for score in scores if score.bin == name), key=lambda score: (score.psnr, score.pair))
        # Nearest to the median first.
        from_middle = sorted(range(len(ranked)), key=lambda rank: abs(rank - len(ranked) // 2))
        # Prefer a picture that shows no other bin yet.
        pictures = {score.picture for score in chosen}
        unused = [ranked[rank] for rank in from_middle if ranked[rank].picture not in pictures]
        chosen += (unused or [ranked[rank] for rank in from_middle])[:1]
    return chosen


def worst_pairs(scores: Sequence[Score], count: int = NUM_WORST) -> list[Score]:
    """Chooses pairs of lowest PSNR, one a picture, worst first."""
    # Sorted by PSNR, so the first score of a picture is its worst.
    by_picture: dict[int, Score] = {}
    for score in sorted(scores, key=lambda score: (score.psnr, score.pair)):
        by_picture.setdefault(score.picture, score)
    return list(by_picture.values())[:count]


def rows(
    pairs: Sequence[Score], eval_set: EvalSet, models: Mapping[str, Model], *, psnr: Mapping[str, Mapping[int, float]]
) -> list[PanelRow]:
    """Fills pairs by all models as they were measured.

    `psnr` has dB by label and pair, for the captions.
    """
    # In ascending order, as they lie in the shards.
    views = {view.pair: view for view in eval_set.views(sorted(score.pair for score in pairs))}
    return [
        PanelRow(
            f"{score.key}, hole of {100 * score.ratio:.0f} %",
            _panels(views[score.pair], models, {label: values[score.pair] for label, values in psnr.items()}),
        )
        for score in pairs
    ]


def whole_photo(
    scores: Sequence[Score], eval_set: EvalSet, models: Mapping[str, Model], *, costs: Sequence[Mapping[str, Any]]
) -> PanelRow:
    """Fills a whole photo by all models.

    Args:
        scores: of the best model; the photo is a representative one whose hole is of middle size.
        eval_set: data of the evaluation.
        models: by label.
        costs: of the models for one square of the evaluation's size; they limit the size of the photo.
    """
    middle = RATIO_BINS[2]
    score = min(representative_pairs(scores), key=lambda score: (score.bin != middle, abs(score.ratio - 0.25)))
    square = eval_set.pairing.size**2
    seconds = max(cost["latency_ms"] for cost in costs) / 1000
    num_bytes = max(cost["memory_bytes"] or 0 for cost in costs)
    # Both grow with the number of pixels. A square of the measured size was affordable.
    times = min(_PHOTO_SECONDS / max(seconds, 1e-6), _PHOTO_BYTES / max(num_bytes, 1))
    view = eval_set.whole_photo(score.pair, max_pixels=min(MAX_PHOTO_PIXELS, square * max(1.0, times)))
    height, width = view.hole.shape
    size = eval_set.pairing.size
    title = (
        f"{view.key}, {width}x{height} pixels, hole of {100 * view.hole.mean():.0f} %, filled whole as `isnet inpaint` "
        f"does. All numbers below are of centre squares of {size}x{size}."
    )
    return PanelRow(title, _panels(view, models, None, definition=eval_set.definition))


def _panels(
    view: View, models: Mapping[str, Model], psnr: Mapping[str, float] | None, *, definition: Any = "isnet"
) -> tuple[Panel, ...]:
    panels = [Panel("damaged", np.where(view.hole[..., None], np.uint8(0), view.pixels))]
    for label, model in models.items():
        filled = model.filler(view.pixels, view.hole)
        value = psnr_of(filled, view, definition) if psnr is None else psnr[label]
        panels.append(Panel(label, filled, f"{value:.1f} dB"))
    return (*panels, Panel("truth", view.pixels))


def titled_strips(panel_rows: Sequence[PanelRow]) -> list[tuple[str, Pixels]]:
    """Draws rows as strips for one sheet, captions in full."""
    return [(row.title, _strip(row)) for row in panel_rows]


def _strip(row: PanelRow) -> Pixels:
    captions = [f"{_short(panel.caption)} {panel.note}".strip() for panel in row.panels]
    # Panels are enlarged until the longest caption fits over them.
    needed = max(len(caption) for caption in captions) * _LETTER + _LETTER
    height, width = row.panels[0].pixels.shape[:2]
    least_height = max(128, -(-needed * height // width))
    scale = max(_SHEET / (len(captions) * width), least_height / height)
    # A thumbnail keeps its pixels, and is enlarged by a whole factor.
    pictures = [
        resize(panel.pixels, round(scale * height), round(scale * width)) if scale < 1 else panel.pixels
        for panel in row.panels
    ]
    return strip(list(zip(captions, pictures, strict=True)), least_height=least_height)


def _short(name: str) -> str:
    """Name without its middle, if it is long."""
    half = _MAX_NAME // 2 - 1
    return name if len(name) <= _MAX_NAME else f"{name[:half]}..{name[-half:]}"


def png(pixels: Pixels) -> bytes:
    """Encodes a picture as PNG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return file.getvalue()


def jpeg(pixels: Pixels) -> bytes:
    """Encodes a picture as JPEG, for looking at."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90, subsampling=0)
    return file.getvalue()


def pair_rows(pairs: Sequence[Score]) -> list[dict[str, Any]]:
    """Describes pairs for the JSON report."""
    fields = ("pair", "key", "bin", "ratio", "psnr", "ssim")
    return [{name: getattr(score, name) for name in fields} for score in pairs]
