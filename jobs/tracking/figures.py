"""Formats figures of held-out metrics."""

from __future__ import annotations

from jobs.cli.format import METRIC_COLUMNS


def figure_text(name: str, value: float | None) -> str | None:
    """Formats a metric with its number of digits."""
    # `psnr_10-20` is the metric `psnr` of a bin.
    digits = METRIC_COLUMNS.get(name.rpartition("_")[0] or name, METRIC_COLUMNS.get(name, ("", 4)))[1]
    return None if value is None else f"{value:.{digits}f}"
