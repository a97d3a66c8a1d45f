"""Tells zip files from others."""

from __future__ import annotations

import zipfile
from pathlib import Path


def is_zip(path: Path) -> bool:
    """True for a zip, damaged ones among them."""
    try:
        return zipfile.is_zipfile(path)
    # It says so only of some (Python 3.11): one of several disks. Reading it says what is wrong.
    except zipfile.BadZipFile:
        return True
