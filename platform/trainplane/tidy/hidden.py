"""Hides an object so that it can come back.

A manifest makes a dataset or a checkpoint exist. Hidden, it stands under another name beside its place, so a process
that is killed between hiding and deleting loses nothing.
"""

from __future__ import annotations

from trainplane.storage import NotFound, Store

SUFFIX = ".hidden"


def hide(store: Store, key: str) -> bool:
    """Hides an object; False where there is none."""
    try:
        data = store.read(key)
    except NotFound:
        return False
    store.write(key + SUFFIX, data)
    store.delete(key)
    return True


def restore(store: Store, key: str) -> bool:
    """Puts a hidden object back; False where none is hidden."""
    try:
        data = store.read(key + SUFFIX)
    except NotFound:
        return False
    # What has been written there since is newer.
    store.create(key, data)
    store.delete(key + SUFFIX)
    return True
