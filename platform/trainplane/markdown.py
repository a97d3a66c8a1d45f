"""Text of others in Markdown: names, addresses and reasons that people typed are shown as they are."""

from __future__ import annotations

import re

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
