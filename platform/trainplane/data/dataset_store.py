"""Datasets of a store, found by their digest.

A name or an address says where a dataset was; its digest says which one it is, wherever it was moved.
"""

from __future__ import annotations

from trainplane.data.manifest import MANIFEST_NAME, Dataset
from trainplane.errors import UserError
from trainplane.storage import StorageError, open_store


def find_by_digest(address: str, digest: str) -> Dataset | None:
    """Finds the dataset of a digest below a store's address.

    Datasets whose manifest cannot be read are passed over. Raises `StorageError` where the store does not answer.
    """
    store = open_store(address)
    for entry in store.list():
        folder, _, name = entry.key.rpartition("/")
        if name != MANIFEST_NAME or not folder:
            continue
        try:
            return Dataset.open(store.child(folder), expected_digest=digest)
        except UserError:
            continue
    return None


def open_if_same(address: str, digest: str) -> Dataset | None:
    """Opens the dataset at an address; None if there is none of this digest."""
    try:
        return Dataset.open(address, expected_digest=digest)
    except (UserError, StorageError, OSError):
        return None
