"""Pins: small objects beside a run's checkpoints, `RUN/pins/step-00001000/WHO.json`. What is pinned is never removed.

    with pinned(store, "step-00001000", by="models:/isnet"):       # before it is read
        ...                                                          # let go of again where this fails

The registry pins what a model version was made from, a search its best. Several may pin the same checkpoint; it is
free when the last pin is gone. Not covered: what stays without a pin (`retention`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from urllib.parse import quote

from trainplane.config.canonical import canonical_json
from trainplane.errors import RunFailed
from trainplane.storage import Store

FOLDER = "pins"
MANIFEST = "manifest.json"


def pin(store: Store, folder: str, *, by: str) -> bool:
    """Pin the checkpoint in `folder` (step-NNNNNNNN) of a run; False where `by` has pinned it before."""
    if not re.fullmatch(r"step-\d+(\.\d+)?", folder):
        raise ValueError(f"{folder!r} is no checkpoint's folder")
    about = canonical_json({"by": by, "checkpoint": folder, "since": datetime.now(UTC).isoformat()})
    return store.create(_key(folder, by), about)


def unpin(store: Store, folder: str, *, by: str) -> None:
    """Let go of it; what others pinned stays pinned."""
    store.delete(_key(folder, by))


def pinned_folders(store: Store) -> set[str]:
    """Folders of a run that somebody pinned."""
    return {entry.key.split("/")[1] for entry in store.list(f"{FOLDER}/") if entry.key.count("/") == 2}


@contextmanager
def pinned(store: Store, folder: str, *, by: str) -> Iterator[None]:
    """Pin it before it is used, and leave the pin there; where the use fails, a pin of ours goes again.

    Raises `RunFailed` where retention took the checkpoint away in the instant before the pin was there.
    """
    is_ours = pin(store, folder, by=by)
    try:
        yield
        if store.size(f"{folder}/{MANIFEST}") is None:
            raise RunFailed(
                f"checkpoint {store.address}/{folder} was removed while it was being used; "
                "take a newer one of the same run"
            )
    except BaseException:
        if is_ours:
            unpin(store, folder, by=by)
        raise


def _key(folder: str, by: str) -> str:
    return f"{FOLDER}/{folder}/{quote(by, safe='')}.json"
