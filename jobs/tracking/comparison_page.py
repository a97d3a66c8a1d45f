"""Writes a comparison of runs as one HTML file."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from isnet.masks import RATIO_BINS
from jobs.cli.format import METRIC_COLUMNS
from jobs.evaluation.report_style import STYLE
from jobs.tracking.comparison import RunComparison
from jobs.tracking.curve_chart import NUM_COLOURS, curve_chart
from jobs.tracking.figures import figure_text
from trainplane.tracking.query.curves import Curve

_ID_DIGITS = 8
_STYLE = """
.swatch { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .4em; }
.side { display: grid; gap: .75rem; } .side img { width: 100%; image-rendering: auto; }
figure.run { margin: 0; } figure.run figcaption { font-size: .85rem; }
"""


def comparison_page(comparison: RunComparison) -> str:
    """Returns the page: settings, metrics, curves, bins, pictures."""
    labels = [f"{run.run_id[:_ID_DIGITS]} {run.name}" for run in comparison.runs]
    ids = [run.run_id[:_ID_DIGITS] for run in comparison.runs]
    statuses = [run.status for run in comparison.runs]
    legend = "".join(
        f'<li><span class="swatch" style="background: var(--s{index % NUM_COLOURS})"></span>{html.escape(label)}, '
        f"{html.escape(status)}</li>"
        for index, (label, status) in enumerate(zip(labels, statuses, strict=True))
    )
    curves = [curve_chart(name, each, labels=labels) for name, each in comparison.curves.items()]
    bins = [curve_chart(title, each, labels=labels, steps=names) for title, names, each in _bins(comparison)]
    parts = [
        f'<ul class="legend">{legend}</ul>',
        _part("Settings that differ", _table(ids, comparison.settings)),
        _part("Last metrics", _table(ids, _figures(comparison.metrics))),
        _part("Curves", "".join(curves), kind="charts"),
        _part("By hole ratio, %", "".join(bins), kind="charts"),
        _part("Newest held-out samples", _pictures(labels, comparison.pictures)),
    ]
    title = f"{len(labels)} runs compared"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}{_STYLE}</style></head><body><h1>{title}</h1>{''.join(parts)}</body></html>\n"
    )


def _part(title: str, content: str, *, kind: str = "") -> str:
    """Section of the page; nothing where it would be empty."""
    return f'<h2>{title}</h2><div class="{kind}">{content}</div>' if content else ""


def _table(ids: Sequence[str], rows: Mapping[str, Sequence[Any]]) -> str:
    if not rows:
        return "<p>none</p>"
    head = "".join(f"<th>{html.escape(each)}</th>" for each in ids)
    body = "".join(
        f"<tr><th>{html.escape(name)}</th>"
        + "".join(f"<td>{html.escape('-' if value is None else str(value))}</td>" for value in values)
        + "</tr>"
        for name, values in rows.items()
    )
    return f'<div class="wide"><table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _figures(metrics: Mapping[str, Sequence[float | None]]) -> dict[str, list[str | None]]:
    return {name: [figure_text(name, value) for value in values] for name, values in metrics.items()}


def _bins(comparison: RunComparison) -> list[tuple[str, list[str], list[Curve]]]:
    """Metrics by hole ratio: name, bins, curves."""
    charts = []
    for metric in dict.fromkeys(name.rpartition("_")[0] for name in comparison.metrics):
        names = [name for name in RATIO_BINS if f"{metric}_{name}" in comparison.metrics]
        if not metric or len(names) < 2:
            continue
        columns = []
        for place in range(len(comparison.runs)):
            values = [comparison.metrics[f"{metric}_{name}"][place] for name in names]
            columns.append(Curve(tuple(range(len(names))), tuple(math.nan if v is None else v for v in values)))
        charts.append((METRIC_COLUMNS.get(metric, (metric, 0))[0], names, columns))
    return charts


def _pictures(labels: Sequence[str], pictures: Sequence[Sequence[bytes | None]]) -> str:
    """Samples of all runs side by side, a row each."""
    columns = f'style="grid-template-columns: repeat({len(labels)}, 1fr)"'
    rows = []
    for sample in zip(*pictures, strict=True):
        if not any(sample):
            continue
        cells = [
            f'<figure class="run">{_image(data)}<figcaption>{html.escape(label)}</figcaption></figure>'
            for label, data in zip(labels, sample, strict=True)
        ]
        rows.append(f'<div class="side" {columns}>{"".join(cells)}</div>')
    return "".join(rows)


def _image(data: bytes | None) -> str:
    if data is None:
        return "<p>none</p>"
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(data).decode()}">'
