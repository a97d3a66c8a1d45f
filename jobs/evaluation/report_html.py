"""Formats the report as one HTML page without external files.

It has no script and needs no network.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from jobs.evaluation.figures import png
from jobs.evaluation.paper_tables import Table
from jobs.evaluation.report import Report, tables
from trainplane.markdown import cell_text

Titled = Sequence[tuple[str, NDArray[np.uint8]]]

# Content Security Policy: only embedded pictures and styles.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem;
       color: #1a1a1a; }
h1 { font-size: 1.6rem; margin-bottom: .3rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; } dt { color: #666; } dd { margin: 0; }
dd, td:first-child { overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .88rem; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th { white-space: normal; vertical-align: bottom; border-bottom: 2px solid #444; font-weight: 600; }
td:first-child, th:first-child { text-align: left; }
td.text { text-align: left; } td small { display: block; color: #777; }
p.note { color: #666; font-size: .85rem; margin: .3rem 0; }
figure { margin: 1rem 0; } figcaption { color: #444; font-size: .85rem; } img { max-width: 100%; height: auto; }
"""


def page(report: Report, *, figure: Titled, worst: Titled) -> str:
    """Formats the page with strips of representative and worst pairs."""
    # Every text from outside goes through `_text`.
    facts = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in report.facts.items())
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>Evaluation of {_text(report.ours)}</title>',
        # The page may be opened from any site: it must not load or run anything.
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        f"<style>{_STYLE}</style></head><body>",
        f"<h1>Evaluation of {_text(report.ours)}</h1><dl>{facts}</dl>",
        *(_table(table) for table in tables(report)),
        "<h2>Pictures: damaged, the others, ours, truth</h2>",
        '<p class="note">for each bin of the paper the pair whose PSNR is the median of ours</p>',
        *(_figure(title, pixels) for title, pixels in figure),
        "<h2>Worst pairs</h2>",
        *(_figure(title, pixels) for title, pixels in worst),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _table(table: Table) -> str:
    head = "".join(f"<th>{_text(column)}</th>" for column in table["columns"])
    body = "".join("<tr>" + "".join(_cell(cell) for cell in row) + "</tr>" for row in table["rows"])
    notes = "".join(f'<p class="note">{_text(note)}</p>' for note in table["notes"])
    return (
        f"<h2>{_text(table['title'])}</h2>"
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{notes}'
    )


def _cell(cell: object) -> str:
    """Formats a cell; an interval is below its mean."""
    text = cell_text(cell)
    is_best = text.startswith("**") and text.endswith("**") and len(text) > 4
    mean, bracket, interval = (text[2:-2] if is_best else text).partition(" [")
    small = f"<small>[{_text(interval)}</small>" if bracket else ""
    inner = f"<b>{_text(mean)}</b>" if is_best else _text(mean)
    return f"<td>{inner}{small}</td>"


def _figure(title: str, pixels: NDArray[np.uint8]) -> str:
    data = base64.b64encode(png(pixels)).decode()
    return (
        f"<figure><figcaption>{_text(title)}</figcaption>"
        f'<img alt="{_text(title)}" src="data:image/png;base64,{data}"></figure>'
    )


def _text(value: object) -> str:
    """Escapes HTML and removes Markdown's backquotes."""
    return html.escape(str(value).replace("`", ""))
