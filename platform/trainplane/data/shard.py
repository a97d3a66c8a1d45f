"""Name and description of a dataset's shard, one tar."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAME = re.compile(r"shard-[0-9]{6,}\.tar")


@dataclass(frozen=True)
class Shard:
    """Entry of a shard in the manifest."""

    name: str
    bytes: int
    samples: int  # how many are in it
    sha256: str  # hexadecimal


def shard_name(number: int) -> str:
    """Returns the name of a dataset's shard of this number."""
    return f"shard-{number:06d}.tar"


def is_shard(key: str) -> bool:
    """Tells if a shard may be stored under this key."""
    return bool(_NAME.fullmatch(key))
