"""Draws curves for a page and for a terminal.

Pure: no I/O. Colours are classes of the report's style sheet.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence

from jobs.cli.chart_scale import digits_of, scale_of
from trainplane.tracking.query.curves import Curve

NUM_COLOURS = 8
_WIDTH, _HEIGHT = 420, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 10, 30
_BLOCKS = "▁▂▃▄▅▆▇█"
_GAP = " "


def curve_chart(name: str, curves: Sequence[Curve], *, labels: Sequence[str], steps: Sequence[str] = ()) -> str:
    """Draws a metric of several runs.

    Args:
        name: Of the metric.
        curves: One a run.
        labels: One a curve, for readers of the page who point at a line.
        steps: Names of the steps 0, 1, … on the axis; without them their numbers.
    """
    values = [value for curve in curves for value in curve.values if math.isfinite(value)]
    last = max((curve.steps[-1] for curve in curves if curve.steps), default=0)
    first = min((curve.steps[0] for curve in curves if curve.steps), default=0)
    if not values:
        return ""
    low, high, step = scale_of(min(values), max(values))

    def x_of(at: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (at - first) / max(1, last - first)

    def y_of(value: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - value) / (high - low)

    parts = []
    for number in range(round((high - low) / step) + 1):
        value = low + number * step
        y = y_of(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.{digits_of(step)}f}</text>')
    marks = list(enumerate(steps)) or [(first, f"{first:,}"), (last, f"step {last:,}")]
    for at, text in marks:
        anchor = "middle" if steps and 0 < at < len(steps) - 1 else "end" if at == last else "start"
        x, y = x_of(at), _HEIGHT - 8
        parts.append(f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}">{html.escape(text)}</text>')
    for index, (curve, label) in enumerate(zip(curves, labels, strict=True)):
        parts += _lines(curve, f"{label}, {name}", index, x_of, y_of)
    title = html.escape(name)
    return (
        f'<figure class="chart"><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{title}">'
        f"{''.join(parts)}</svg><figcaption>{title}</figcaption></figure>"
    )


def _lines(
    curve: Curve, text: str, index: int, x_of: Callable[[float], float], y_of: Callable[[float], float]
) -> list[str]:
    """Lines of a curve, with gaps at NaN."""
    runs: list[list[str]] = [[]]
    for at, value in zip(curve.steps, curve.values, strict=True):
        if math.isfinite(value):
            runs[-1].append(f"{x_of(at):.1f},{y_of(value):.1f}")
        elif runs[-1]:
            runs.append([])
    title = f"<title>{html.escape(text)}</title>"
    kind = f'class="line s{index % NUM_COLOURS}" stroke-linecap="round"'
    return [
        # A single point is a dot, by the round ends of its line.
        f'<g>{title}<polyline {kind} points="{" ".join(points if points[1:] else points * 2)}"/></g>'
        for points in runs
        if points
    ]


def sparkline(curve: Curve, low: float, high: float, *, width: int) -> str:
    """Draws a curve as a line of blocks."""
    if not curve.steps or not math.isfinite(low):
        return ""
    cells = []
    for cell in range(width):
        start, end = cell * len(curve.values) // width, max(1, (cell + 1) * len(curve.values) // width)
        part = [value for value in curve.values[start : max(end, start + 1)] if math.isfinite(value)]
        if not part:
            cells.append(_GAP)
            continue
        share = (sum(part) / len(part) - low) / (high - low) if high > low else 0.5
        cells.append(_BLOCKS[min(len(_BLOCKS) - 1, max(0, int(share * len(_BLOCKS))))])
    return "".join(cells)
