"""`isnet runs compare RUN RUN …`: what differs between runs."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from jobs.api.recorded_runs import compare as compare_runs
from jobs.cli.main import emit
from jobs.tracking.comparison import RunComparison
from jobs.tracking.curve_chart import sparkline
from jobs.tracking.figures import figure_text
from trainplane.cluster.context import Context
from trainplane.errors import UserError

_ID_DIGITS = 8
# Characters of a curve in a terminal.
_WIDTH = 32


def compare(args: argparse.Namespace, context: Context) -> int:
    """Prints what differs, and metrics and curves side by side."""
    page = Path(args.html).expanduser() if args.html is not None else None
    if page is not None and not page.parent.is_dir():
        raise UserError(f"{page.parent}: there is no such folder to write to; make it")
    comparison = compare_runs(*args.runs, with_pictures=page is not None, context=context)
    text = _text(comparison)
    if page is not None:
        page.write_text(comparison.to_html(), encoding="utf-8")
        text += f"\n\npage: {page}"
    emit(args, {**comparison.to_json(), "page": page and str(page)}, text)
    return 0


def _text(comparison: RunComparison) -> str:
    lines = [f"{run.run_id[:_ID_DIGITS]}  {run.status:<9} {run.name}" for run in comparison.runs]
    ids = [run.run_id[:_ID_DIGITS] for run in comparison.runs]
    settings = {
        name: ["-" if value is None else str(value) for value in row] for name, row in comparison.settings.items()
    }
    metrics = {name: [figure_text(name, value) or "-" for value in row] for name, row in comparison.metrics.items()}
    curves = {name: row for name in comparison.curves if any(row := _lines(comparison, name))}
    for title, rows in (("settings that differ", settings), ("last metrics", metrics), ("curves", curves)):
        lines += ["", f"{title}:", *(_aligned({"": ids, **rows}) if rows else ["  none"])]
    return "\n".join(lines)


def _lines(comparison: RunComparison, name: str) -> list[str]:
    """Curves of a metric, drawn between the same two values."""
    curves = comparison.curves[name]
    values = [value for curve in curves for value in curve.values if math.isfinite(value)]
    low, high = (min(values), max(values)) if values else (math.nan, math.nan)
    return [sparkline(curve, low, high, width=_WIDTH) for curve in curves]


def _aligned(rows: Mapping[str, Sequence[str]]) -> list[str]:
    first = max(map(len, rows))
    widths = [max(map(len, column)) for column in zip(*rows.values(), strict=True)]
    return [
        f"  {name:<{first}}  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
        for name, row in rows.items()
    ]
