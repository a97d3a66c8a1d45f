"""Refuses folders that a listing does not look into."""

from __future__ import annotations

import os
from pathlib import Path

from trainplane.store_address import scheme_of
from trainplane.tidy.inventory import unread


def check_no_links(address: str) -> None:
    """Raises `UserError` where a store has linked folders.

    A store's listing does not follow it, so what lies behind it would need nothing.
    """
    if scheme_of(address):
        return
    for folder, names, _ in os.walk(address):
        for name in names:
            if (path := Path(folder, name)).is_symlink():
                raise unread(str(path), "it is a link to another folder")
