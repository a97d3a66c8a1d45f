"""Formats figures for people; does no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# Metric -> column title and digits behind the point.
METRIC_COLUMNS = {
    "psnr": ("PSNR dB", 2),
    "ssim": ("SSIM", 4),
    "l1_percent": ("L1 %", 2),
    "l1_hole": ("L1 in the hole", 4),
}
# Metrics that an evaluation has only where they were asked for.
EXTRA_COLUMNS = {
    "lpips": ("LPIPS", 4),
    "fid": ("FID", 2),
    "p_ids": ("P-IDS", 4),
    "u_ids": ("U-IDS", 4),
}
# The three metrics of short tables.
KEY_METRICS = ("psnr", "ssim", "l1_percent")


def metric_names(means: Mapping[str, Any]) -> list[str]:
    """Metrics that these means have, in order."""
    return [name for name in METRIC_COLUMNS | EXTRA_COLUMNS if means.get(name) is not None]


def mean_text(
    metric: str,
    mean: float | None,
    interval: Sequence[float] | None = None,
    *,
    is_difference: bool = False,
    missing: str = "",
) -> str:
    """Formats a mean with its interval: `27.91 [27.10, 28.70]`.

    A mean of None gives `missing`. Differences have a sign, also positive ones.
    """
    if mean is None:
        return missing
    form = f"{'+' if is_difference else ''}.{(METRIC_COLUMNS | EXTRA_COLUMNS)[metric][1]}f"
    return f"{mean:{form}}" + ("" if interval is None else f" [{interval[0]:{form}}, {interval[1]:{form}}]")


def mean_texts(means: Mapping[str, Any], metrics: Sequence[str] = KEY_METRICS) -> list[str]:
    """Formats the means of some metrics."""
    return [mean_text(metric, means.get(metric)) for metric in metrics]


def ratio_rows(
    bins: Mapping[str, Mapping[str, Any]],
    intervals: Mapping[str, Mapping[str, Any] | None] | None = None,
    *,
    metrics: Sequence[str] = tuple(METRIC_COLUMNS),
    missing: str = "",
) -> list[list[str]]:
    """Formats means by hole ratio as rows: bin, pairs, metrics.

    Args:
        bins: means and count `n` by bin, as in an evaluation; an empty bin gives no row.
        intervals: [low, high] by bin and metric.
        metrics: columns behind the bin and its number of pairs.
        missing: text of a cell without a mean.
    """
    rows = []
    # All pairs first, then the bins by their ratio: names of bins sort as their ratios do.
    for name in sorted(bins, key=lambda name: (name != "all", name)):
        means, ends = bins[name], (intervals or {}).get(name) or {}
        if means:
            cells = [mean_text(metric, means.get(metric), ends.get(metric), missing=missing) for metric in metrics]
            rows.append([name, str(means.get("n", "")), *cells])
    return rows


def quantity(number: int, noun: str) -> str:
    """Formats a number of things: `1 sample`, `2,000 samples`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def size(num_bytes: float) -> str:
    """Formats bytes with three digits: `53.4 GB`."""
    # Decimal units, unlike the sizes of the command line.
    for unit in ("B", "KB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}" if unit != "B" else f"{num_bytes:.0f} B"
        num_bytes /= 1000
    return f"{num_bytes:,.1f} TB"


def duration(seconds: float) -> str:
    """Formats seconds: `42 s`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"
