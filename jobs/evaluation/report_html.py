"""Formats the report as one HTML page without external files.

It has no script and needs no network. It opens with one sentence and one photo, then charts by hole ratio, then tables.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

from isnet.metrics import METRICS
from jobs.evaluation.figures import Panel, PanelRow, jpeg, png
from jobs.evaluation.headline import headline
from jobs.evaluation.paper_tables import Table
from jobs.evaluation.report import Report, paper_notes, reading_notes, tables, tables_of_paper
from jobs.evaluation.report_charts import chart, legend
from jobs.evaluation.report_style import STYLE
from trainplane.markdown import cell_text

# Content Security Policy: only embedded pictures and styles.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
# Columns with names instead of numbers.
_NAMES = ("model", "row", "whose", "definition", "hole", "drawn hole", "metric")
# A name could reverse the sentence that it stands in.
_REMOVED = dict.fromkeys([ord("`"), *range(0x202A, 0x202F), *range(0x2066, 0x206A)])
# Smaller pictures are stored without loss.
_LOSSLESS_PIXELS = 256 * 256


def page(report: Report, *, photo: PanelRow, examples: Sequence[PanelRow], worst: Sequence[PanelRow]) -> str:
    """Formats the page.

    Args:
        report: numbers.
        photo: whole photo that opens the page.
        examples: representative pairs, one for each bin.
        worst: pairs with the lowest PSNR.
    """
    # Every text from outside goes through `_text`.
    sentence = headline(report.evaluations, report.lead)
    charts = "".join(chart(report.evaluations, metric) for metric in METRICS)
    board, *others = tables(report)
    facts = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in report.facts.items())
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        # The page may be opened from any site: it must not load or run anything.
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        f"<title>Evaluation of {_text(', '.join(report.evaluations))}</title>",
        f"<style>{STYLE}</style></head><body>",
        f'<p class="kind">Evaluation on {_text(report.evaluations[report.ours]["dataset"])}</p>',
        f"<h1>{_text(sentence)}</h1>",
        _panels(photo, kind="lead"),
        "<h2>By hole ratio</h2>",
        legend(list(report.evaluations)) if len(report.evaluations) > 1 else "",
        f'<div class="charts">{charts}</div>',
        *(f'<p class="note">{_text(note)}</p>' for note in reading_notes(report)),
        *(_table(table) for table in (board, *others)),
        "<h2>A typical pair of each hole ratio</h2>",
        f'<p class="note">The pair whose PSNR is the median of {_text(report.ours)}.</p>',
        *(_panels(row, kind="small") for row in examples),
        f"<details><summary>The {len(worst)} worst pairs of {_text(report.ours)}</summary>",
        *(_panels(row, kind="small") for row in worst),
        "</details>",
        f"<details{' open' if report.paper else ''}><summary>Beside the paper's tables</summary>",
        *(f'<p class="note">{_text(note)}</p>' for note in paper_notes(report)),
        *(_table(table, with_notes=False) for table in tables_of_paper(report)),
        "</details>",
        f"<details open><summary>What was measured</summary><dl>{facts}</dl></details>" if facts else "",
        "</body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _panels(row: PanelRow, *, kind: str) -> str:
    panels = "".join(_panel(panel) for panel in row.panels)
    # Full rows on a wide screen: up to four photos in one, more in rows of three or four; or up to twelve small panels.
    count = len(row.panels)
    columns = min(count, 12) if kind == "small" else count if count <= 4 else 3 if count <= 6 or count == 9 else 4
    return (
        f'<p class="note">{_text(row.title)}</p><div class="panels {kind}" style="--columns:{columns}">{panels}</div>'
    )


def _panel(panel: Panel) -> str:
    height, width = panel.pixels.shape[:2]
    is_small = height * width <= _LOSSLESS_PIXELS
    data = base64.b64encode(png(panel.pixels) if is_small else jpeg(panel.pixels)).decode()
    kind = "png" if is_small else "jpeg"
    note = f" <span>{_text(panel.note)}</span>" if panel.note else ""
    return (
        f'<figure><img alt="{_text(panel.caption)}" width="{width}" height="{height}" '
        f'src="data:image/{kind};base64,{data}">'
        f"<figcaption><b>{_text(panel.caption)}</b>{note}</figcaption></figure>"
    )


def _table(table: Table, *, with_notes: bool = True) -> str:
    is_name = [str(column) in _NAMES for column in table["columns"]]
    head = "".join(
        f"<th{_class(name)}>{_text(column)}</th>" for column, name in zip(table["columns"], is_name, strict=True)
    )
    body = "".join(
        "<tr>" + "".join(_cell(cell, name) for cell, name in zip(row, is_name, strict=True)) + "</tr>"
        for row in table["rows"]
    )
    notes = "".join(f'<p class="note">{_text(note)}</p>' for note in table["notes"]) if with_notes else ""
    return (
        f"<h3>{_text(table['title'])}</h3>"
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{notes}'
    )


def _class(is_name: bool) -> str:
    return ' class="name"' if is_name else ""


def _cell(cell: object, is_name: bool) -> str:
    """Formats a cell; an interval is below its mean."""
    text = cell_text(cell)
    if is_name:
        return f"<td{_class(is_name)}>{_text(text)}</td>"
    is_best = text.startswith("**") and text.endswith("**") and len(text) > 4
    mean, bracket, interval = (text[2:-2] if is_best else text).partition(" [")
    small = f"<small>[{_text(interval)}</small>" if bracket else ""
    inner = f"<b>{_text(mean)}</b>" if is_best else _text(mean)
    return f"<td>{inner}{small}</td>"


def _text(value: object) -> str:
    """Escapes HTML; removes backquotes and marks of direction."""
    return html.escape(str(value).translate(_REMOVED))
