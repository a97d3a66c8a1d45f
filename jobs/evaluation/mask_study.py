"""What the way masks are loaded is worth: one model on the same pictures and masks, loaded in three ways.

Pairs are put into the bin of the hole as it was drawn, so that a row compares like with like: how large the hole is
after loading, and by how much the figures rise with that alone (ISNet.md §8, row 18).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from isnet.mask_files import LOADINGS, Loading
from jobs.evaluation.evaluation import Protocol
from jobs.evaluation.scores import ALL_BINS, Score
from trainplane.errors import UserError
from trainplane.registry import significance


def study(rules: Protocol, scored: Callable[[Protocol], list[Score]], *, nearest: list[Score]) -> list[dict[str, Any]]:
    """A row a bin: {bin, n, ratio: {way: …}, psnr: {way: …}, gain: {way: {difference, interval}}}.

    `scored` measures the model by a protocol; `nearest` are its scores on this one, which loads masks our way.
    """
    if rules.bench.mask_set is None:
        raise UserError(
            f"masks {rules.masks!r} are drawn at the picture's size, so nothing is loaded; "
            "name a packed mask dataset with --masks to study how masks are loaded"
        )
    scores: dict[Loading, list[Score]] = {"nearest": nearest}
    for way in LOADINGS[1:]:
        bench = replace(rules.bench, pairing=replace(rules.bench.pairing, loading=way))
        scores[way] = scored(replace(rules, bench=bench))
    rows = []
    for name in ALL_BINS:
        places = [place for place, one in enumerate(nearest) if one.bin == name]
        if places:
            rows.append(_row(name, {way: [found[place] for place in places] for way, found in scores.items()}))
    return rows


def _row(name: str, scores: dict[Loading, list[Score]]) -> dict[str, Any]:
    nearest = scores["nearest"]
    gains = {}
    for way in LOADINGS[1:]:
        found = significance.compare(
            [one.psnr for one in scores[way]], [one.psnr for one in nearest], [one.picture for one in nearest]
        )
        interval = None if found.interval is None else [found.interval.low, found.interval.high]
        gains[way] = {"difference": found.difference, "interval": interval}
    return {
        "bin": name,
        "n": len(nearest),
        "ratio": {way: statistics.fmean(one.ratio for one in found) for way, found in scores.items()},
        "psnr": {way: statistics.fmean(one.psnr for one in found) for way, found in scores.items()},
        "gain": gains,
    }
