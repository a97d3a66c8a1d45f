"""Escapes names, addresses and reasons: Markdown shows them as typed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

# The backslash is escaped too: at the end of a name it would cancel the escape of the next character.
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", "\\": "\\\\", "`": "\\`", "|": "\\|", "\n": " ", "\r": " "})


def escaped(text: str) -> str:
    """Escapes text for one line or one table cell.

    It cannot start HTML, code or a new cell. Emphasis (`**`) stays.
    """
    return text.translate(_ESCAPES)


def code_span(text: str) -> str:
    """Formats text as inline code."""
    # The fence has one backquote more than the longest run in the text.
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence, gap = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{gap}{text}{gap}{fence}".replace("\n", " ")


def cell_text(cell: Any) -> str:
    """Text of a table's cell."""
    if cell is None:
        return ""
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def markdown_table(columns: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    """Markdown table with escaped cells."""
    cells = [[escaped(cell_text(cell)) for cell in row] for row in (columns, *rows)]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "---|" * len(columns), *lines[1:]])
