"""Pins protect checkpoints from deletion: `RUN/pins/step-00001000/WHO.json`.

The registry pins the checkpoint of each model version, a search its best one. Several owners may pin one checkpoint; it
is free when the last pin is removed.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from urllib.parse import quote

from trainplane.config.canonical import canonical_json
from trainplane.errors import RunFailed
from trainplane.storage import AccessDenied, Store

log = logging.getLogger(__name__)

FOLDER = "pins"
MANIFEST = "manifest.json"


def pin(store: Store, folder: str, *, by: str) -> bool:
    """Pins a checkpoint; False where `by` already has a pin."""
    if not re.fullmatch(r"step-\d+(\.\d+)?", folder):
        raise ValueError(f"{folder!r} is no checkpoint's folder")
    about = canonical_json({"by": by, "checkpoint": folder, "since": datetime.now(UTC).isoformat()})
    return store.create(_key(folder, by), about)


def unpin(store: Store, folder: str, *, by: str) -> None:
    """Removes the pin of `by`; pins of other owners stay."""
    store.delete(_key(folder, by))


def pinned_folders(store: Store) -> set[str]:
    """Folders of a run that have a pin."""
    return {entry.key.split("/")[1] for entry in store.list(f"{FOLDER}/") if entry.key.count("/") == 2}


@contextmanager
def pinned(store: Store, folder: str, *, by: str) -> Iterator[None]:
    """Pins a checkpoint before it is used in the block.

    The pin stays after the block; a failing block removes it, unless it was there before. Raises `RunFailed` where
    retention deleted the checkpoint meanwhile. Without the right to write there the checkpoint is used unprotected.
    """
    # Pin first, then look: retention reads the pins before it deletes.
    try:
        is_new = pin(store, folder, by=by)
    except AccessDenied as error:
        log.warning("%s: used without a pin, so the rules of its run may delete it later (%s)", folder, error)
        is_new = False
    try:
        yield
        if store.size(f"{folder}/{MANIFEST}") is None:
            raise RunFailed(
                f"checkpoint {store.address}/{folder} was removed while it was being used; "
                "take a newer one of the same run"
            )
    except BaseException:
        # A promoter may pin and not delete.
        if is_new:
            with suppress(AccessDenied):
                unpin(store, folder, by=by)
        raise


def _key(folder: str, by: str) -> str:
    return f"{FOLDER}/{folder}/{quote(by, safe='')}.json"
