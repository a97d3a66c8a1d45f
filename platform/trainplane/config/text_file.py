"""Reads text files that users wrote."""

from __future__ import annotations

import codecs
from pathlib import Path

# Editors on Windows write these at the beginning of a file.
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def read_text(path: Path) -> str:
    """Text of a UTF-8 file, or of a marked one.

    Raises:
        OSError: The file cannot be read.
        UnicodeDecodeError: It is no text.
    """
    content = path.read_bytes()
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    return content.decode(encoding).replace("\r\n", "\n")
