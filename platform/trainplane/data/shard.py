"""Name and description of a dataset's shard, one tar.

A dataset that grew out of others has their shards, too, and names them relative to its own folder:
`../../shard-000000.tar`.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass

from trainplane.storage import Store, open_store

_NAME = re.compile(r"shard-[0-9]{6,}\.tar")
# Steps up, then folders, then the name: no step up behind a folder, so that one shard has one name.
_RELATIVE = re.compile(r"(?:\.\./){1,16}(?:(?!\.\.?/)[^/\\\x00-\x1f\x7f]{1,200}/){0,16}shard-[0-9]{6,}\.tar")


@dataclass(frozen=True)
class Shard:
    """Entry of a shard in the manifest."""

    name: str  # of its object, relative to the dataset's folder
    bytes: int
    samples: int  # how many of those in it belong to the dataset
    sha256: str  # hexadecimal


def shard_name(number: int) -> str:
    """Returns the name of a dataset's shard of this number."""
    return f"shard-{number:06d}.tar"


def is_shard(key: str) -> bool:
    """Tells if a shard may be stored under this key."""
    return bool(_NAME.fullmatch(key))


def is_inherited(name: str) -> bool:
    """Tells if a shard lies in another dataset's folder."""
    return bool(_RELATIVE.fullmatch(name))


def shard_place(store: Store, name: str) -> tuple[Store, str]:
    """Returns the store and the key of a dataset's shard.

    Args:
        store: Of the dataset.
        name: Of the shard, in its manifest.

    Raises:
        ValueError: If the name leads out of the bucket.
    """
    if is_shard(name):
        return store, name
    folder, _, key = joined(store.address, name).rpartition("/")
    return open_store(folder), key


def joined(address: str, relative: str) -> str:
    """Address of what is called `relative` in the folder `address`.

    Raises `ValueError` if it leads out of the bucket.
    """
    # The bucket is the root of a store on S3.
    scheme, _, path = address.rpartition("://")
    parts = path.split("/")
    up = relative.split("/").count("..")
    if up >= len(parts):
        raise ValueError(f"{relative!r} leads out of {address}")
    place = posixpath.normpath(posixpath.join(path, relative))
    return f"{scheme}://{place}" if scheme else place


def relative_name(address: str, start: str) -> str | None:
    """Name of an address relative to the folder `start`.

    None where both are in different buckets, or one in none.
    """
    scheme, _, path = address.rpartition("://")
    start_scheme, _, folder = start.rpartition("://")
    if scheme != start_scheme or (scheme and path.partition("/")[0] != folder.partition("/")[0]):
        return None
    return posixpath.relpath(path, folder)
