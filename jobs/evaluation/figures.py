"""Pictures of a report: a figure like the paper's Fig. 3, and the pairs that the model fills worst.

A strip shows one pair: damaged, each other method, ours, truth. Representative pairs are chosen by rule, not by taste:
the median of ours in each of the paper's bins. Captions carry the picture's key and its figures.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jobs.evaluation.models import Model
from jobs.evaluation.paper_tables import PAPER_BINS
from jobs.evaluation.scores import ALL_BINS, Bench, Score, View
from trainplane.tracking.images import contact_sheet, strip

Pixels = NDArray[np.uint8]
NUM_WORST = 10


def representative(scores: Sequence[Score]) -> list[Score]:
    """For each of the paper's bins (each bin there is, where none of those has a pair) the pair of median PSNR, a
    picture that was not shown yet where there is one."""
    bins = [name for name in PAPER_BINS if any(one.bin == name for one in scores)] or list(ALL_BINS)
    chosen: list[Score] = []
    for name in bins:
        ranked = sorted((one for one in scores if one.bin == name), key=lambda one: (one.psnr, one.pair))
        from_middle = sorted(range(len(ranked)), key=lambda place: abs(place - len(ranked) // 2))
        seen = {one.picture for one in chosen}
        fresh = [ranked[place] for place in from_middle if ranked[place].picture not in seen]
        chosen += (fresh or [ranked[place] for place in from_middle])[:1]
    return chosen


def worst(scores: Sequence[Score], count: int = NUM_WORST) -> list[Score]:
    """Pairs of the lowest PSNR, one a picture, the worst first."""
    found: dict[int, Score] = {}
    for one in sorted(scores, key=lambda one: (one.psnr, one.pair)):
        found.setdefault(one.picture, one)
    return list(found.values())[:count]


def strips(
    chosen: Sequence[Score], bench: Bench, models: Mapping[str, Model], *, psnr: Mapping[str, Mapping[int, float]]
) -> list[tuple[str, Pixels]]:
    """A titled strip for each chosen pair. `psnr`: by label and pair, for the captions; ours is the first model."""
    ours, *others = models
    views = {view.pair: view for view in bench.views(sorted(one.pair for one in chosen))}
    found = []
    for one in chosen:
        view = views[one.pair]
        panels = [("damaged", np.where(view.hole[..., None], np.uint8(0), view.pixels))]
        for label in (*others, ours):
            panels.append((f"{label} {psnr[label][one.pair]:.1f} dB", _filled(models[label], view)))
        title = f"{one.key}, {100 * one.ratio:.0f} % hole"
        found.append((title, strip([*panels, ("truth", view.pixels)])))
    return found


def _filled(model: Model, view: View) -> Pixels:
    return model.filler(view.pixels, view.hole)


def sheet(titled: Sequence[tuple[str, Pixels]]) -> Pixels:
    """All strips below one another."""
    return contact_sheet(titled)


def png(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return file.getvalue()


def facts_of(chosen: Sequence[Score]) -> list[dict[str, Any]]:
    """The chosen pairs for the JSON report."""
    return [
        {"pair": one.pair, "key": one.key, "bin": one.bin, "ratio": one.ratio, "psnr": one.psnr, "ssim": one.ssim}
        for one in chosen
    ]
