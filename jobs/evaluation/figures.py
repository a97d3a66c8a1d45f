"""Pictures of a report: representative pairs and the worst pairs.

A strip shows one pair: damaged, each other method, ours, truth, like Fig. 3 of the paper.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from jobs.evaluation.models import Model
from jobs.evaluation.paper_tables import PAPER_BINS
from jobs.evaluation.scores import ALL_BINS, EvalSet, Pixels, Score
from trainplane.tracking.images import strip

NUM_WORST = 10


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


def strips(
    pairs: Sequence[Score], eval_set: EvalSet, models: Mapping[str, Model], *, psnr: Mapping[str, Mapping[int, float]]
) -> list[tuple[str, Pixels]]:
    """Draws a titled strip for each pair, ours last."""
    # Ours is the first model. `psnr` has dB by label and pair, for the titles of the panels.
    ours, *others = models
    # In ascending order, as they lie in the shards.
    views = {view.pair: view for view in eval_set.views(sorted(score.pair for score in pairs))}
    titled = []
    for score in pairs:
        view = views[score.pair]
        panels = [("damaged", np.where(view.hole[..., None], np.uint8(0), view.pixels))]
        for label in (*others, ours):
            title = f"{label} {psnr[label][score.pair]:.1f} dB"
            panels.append((title, models[label].filler(view.pixels, view.hole)))
        # The score's own figures are those of the first model.
        title = f"{score.key}, {100 * score.ratio:.0f} % hole"
        titled.append((title, strip([*panels, ("truth", view.pixels)])))
    return titled


def png(pixels: Pixels) -> bytes:
    """Encodes a picture as PNG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return file.getvalue()


def pair_rows(pairs: Sequence[Score]) -> list[dict[str, Any]]:
    """Describes pairs for the JSON report."""
    fields = ("pair", "key", "bin", "ratio", "psnr", "ssim")
    return [{name: getattr(score, name) for name in fields} for score in pairs]
