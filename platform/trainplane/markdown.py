"""Text of others in Markdown: names, addresses and reasons that people typed are shown as they are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

# The backslash too, or one at the end of a name would free the mark after it.
_SHOWN_AS = str.maketrans({"&": "&amp;", "<": "&lt;", "\\": "\\\\", "`": "\\`", "|": "\\|", "\n": " ", "\r": " "})


def escaped(text: str) -> str:
    """The text for one line or one cell: no HTML, no code, no new cell. Emphasis (`**`) stays."""
    return text.translate(_SHOWN_AS)


def coded(text: str) -> str:
    """The text as code in a line: between more backquotes than it has in a row."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence, gap = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{gap}{text}{gap}{fence}".replace("\n", " ")


def cell_text(cell: Any) -> str:
    """A table's cell as text."""
    if cell is None:
        return ""
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def markdown_table(columns: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table with escaped cells."""
    cells = [[escaped(cell_text(cell)) for cell in row] for row in (columns, *rows)]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "---|" * len(columns), *lines[1:]])
