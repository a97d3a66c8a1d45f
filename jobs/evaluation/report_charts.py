"""Draws the charts of a report's page as SVG.

Pure: no I/O, no script. Colours are classes of the page's style sheet, so a dark page has others. Each series has a
colour and a shape of its own; from the ninth on they come again, hollow and dashed.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.cli.chart_scale import digits_of, scale_of
from jobs.cli.format import METRIC_COLUMNS
from jobs.evaluation.evaluation import BETTER
from jobs.evaluation.scores import ALL_BINS

NUM_COLOURS = 8
_WIDTH, _HEIGHT = 360, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 14, 40
# Radius of a mark, and the distance of series beside each other, pixels.
_MARK, _STEP = 3.5, 7.0
# Corners of marks.
_SQUARE = ((-3.2, -3.2), (3.2, -3.2), (3.2, 3.2), (-3.2, 3.2))
_DIAMOND = ((0, -4.8), (4.8, 0), (0, 4.8), (-4.8, 0))
_TRIANGLE = ((0, -4.8), (4.4, 3.4), (-4.4, 3.4))


def legend(labels: Sequence[str]) -> str:
    """Formats the names of the series beside their marks."""
    items = "".join(
        f'<li><svg class="key" viewBox="-6 -6 12 12" aria-hidden="true">{_mark(0, 0, index)}</svg>'
        f"{html.escape(label)}</li>"
        for index, label in enumerate(labels)
    )
    return f'<ul class="legend">{items}</ul>'


def chart(evaluations: Mapping[str, Mapping[str, Any]], metric: str) -> str:
    """Draws a metric by hole ratio, one series a model."""
    bins = [name for name in ALL_BINS if any(name in e["bins"] for e in evaluations.values())]
    series = [_points(evaluation, metric, bins) for evaluation in evaluations.values()]
    values = [value for points in series for point in points if point for value in point if value is not None]
    if not bins or not values:
        return ""
    low, high, step = scale_of(min(values), max(values))
    inner = _WIDTH - _LEFT - _RIGHT

    def x_of(place: int) -> float:
        return _LEFT + inner * (place + 0.5) / len(bins)

    def y_of(value: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - value) / (high - low)

    title, digits = METRIC_COLUMNS[metric]
    parts = [*_axes(bins, x_of, y_of, (low, high, step))]
    # Series stand beside each other, as far as a bin is wide.
    distance = min(_STEP, 0.7 * inner / len(bins) / len(series))
    for index, (label, points) in enumerate(zip(evaluations, series, strict=True)):
        shift = (index - (len(series) - 1) / 2) * distance
        drawn = [(x_of(place) + shift, bins[place], point) for place, point in enumerate(points) if point is not None]
        line = " ".join(f"{x:.1f},{y_of(point[0]):.1f}" for x, _, point in drawn)
        parts.append(f'<polyline class="line {_series(index)}" points="{line}"/>')
        for x, name, (mean, ends_low, ends_high) in drawn:
            text = f"{label}, {name} %: {mean:.{digits}f}"
            bar = ""
            if ends_low is not None and ends_high is not None:
                text += f" [{ends_low:.{digits}f}, {ends_high:.{digits}f}]"
                bar = (
                    f'<line class="bar {_series(index)}" x1="{x:.1f}" x2="{x:.1f}" '
                    f'y1="{y_of(ends_low):.1f}" y2="{y_of(ends_high):.1f}"/>'
                )
            parts.append(f"<g><title>{html.escape(text)}</title>{bar}{_mark(x, y_of(mean), index)}</g>")
    name = f"{title} by hole ratio, {BETTER[metric]} is better"
    return (
        f'<figure class="chart"><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(name)}">'
        f"{''.join(parts)}</svg><figcaption>{html.escape(name)}</figcaption></figure>"
    )


def _points(
    evaluation: Mapping[str, Any], metric: str, bins: Sequence[str]
) -> list[tuple[float, float | None, float | None] | None]:
    """Mean and interval in each bin that has pairs."""
    points: list[tuple[float, float | None, float | None] | None] = []
    for name in bins:
        mean = evaluation["bins"].get(name, {}).get(metric)
        if mean is None or not math.isfinite(mean):
            points.append(None)
            continue
        ends = (evaluation["intervals"].get(name) or {}).get(metric) or (None, None)
        points.append((mean, ends[0], ends[1]))
    return points


def _axes(bins: Sequence[str], x_of: Any, y_of: Any, scale: tuple[float, float, float]) -> list[str]:
    """Grid lines with numbers, and names of the bins."""
    low, high, step = scale
    digits = digits_of(step)
    parts = []
    for number in range(round((high - low) / step) + 1):
        y = y_of(low + number * step)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{low + number * step:.{digits}f}</text>')
    for place, name in enumerate(bins):
        text = html.escape(name)
        parts.append(f'<text x="{x_of(place):.1f}" y="{_HEIGHT - _BOTTOM + 17}" text-anchor="middle">{text}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">hole, % of the picture</text>')
    return parts


def _series(index: int) -> str:
    """Classes of a series."""
    return f"s{index % NUM_COLOURS}{' again' if index >= NUM_COLOURS else ''}"


def _mark(x: float, y: float, index: int) -> str:
    """Circle, square, diamond or triangle of a series."""
    name = f'class="mark {_series(index)}"'
    if index % 4 == 0:
        return f'<circle {name} cx="{x:.1f}" cy="{y:.1f}" r="{_MARK}"/>'
    corners = (_SQUARE, _DIAMOND, _TRIANGLE)[index % 4 - 1]
    points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return f'<polygon {name} points="{points}"/>'
