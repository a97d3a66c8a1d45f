"""Compares three ways of loading masks with one model.

The pictures and masks are the same each time. A pair is in the bin of the hole as drawn, so that a row compares like
with like: the size of the hole after loading, and the change of the metrics that follows (ISNet.md §8, row 18).
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


def study(
    protocol: Protocol, measure: Callable[[Protocol], list[Score]], *, nearest: list[Score]
) -> list[dict[str, Any]]:
    """Measures the model with each way of loading.

    Args:
        protocol: loads masks by `nearest`.
        measure: scores the model by a protocol.
        nearest: scores of the model by `protocol`.

    Returns:
        A row for each bin: {bin, n, ratio: {way: …}, psnr: {way: …}, gain: {way: {difference, interval}}}.
    """
    if protocol.eval_set.mask_set is None:
        raise UserError(
            f"masks {protocol.masks!r} are drawn at the picture's size, so nothing is loaded; "
            "name a packed mask dataset with --masks to study how masks are loaded"
        )
    scores: dict[Loading, list[Score]] = {"nearest": nearest}
    # The other two ways, on the same pairs.
    for way in LOADINGS[1:]:
        eval_set = replace(protocol.eval_set, pairing=replace(protocol.eval_set.pairing, loading=way))
        # Of PSNR alone, so without the networks of other metrics.
        scores[way] = measure(replace(protocol, eval_set=eval_set, networks=None))
    rows = []
    for name in ALL_BINS:
        # Bins of `nearest` for every way: they are nearest to the hole as drawn.
        indices = [index for index, score in enumerate(nearest) if score.bin == name]
        if indices:
            rows.append(_row(name, {way: [scored[index] for index in indices] for way, scored in scores.items()}))
    return rows


def _row(name: str, scores: dict[Loading, list[Score]]) -> dict[str, Any]:
    # Gains are paired with `nearest`, picture by picture.
    nearest = scores["nearest"]
    gains = {}
    for way in LOADINGS[1:]:
        comparison = significance.compare(
            [score.psnr for score in scores[way]],
            [score.psnr for score in nearest],
            [score.picture for score in nearest],
        )
        ends = comparison.interval
        gains[way] = {
            "difference": comparison.difference,
            "interval": None if ends is None else [ends.low, ends.high],
        }
    return {
        "bin": name,
        "n": len(nearest),
        "ratio": {way: statistics.fmean(score.ratio for score in scored) for way, scored in scores.items()},
        "psnr": {way: statistics.fmean(score.psnr for score in scored) for way, scored in scores.items()},
        "gain": gains,
    }
