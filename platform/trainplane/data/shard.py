"""What a tar of a dataset is called, and what the manifest says of it. Not covered: making one (shards.py)."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAME = re.compile(r"shard-[0-9]{6,}\.tar")


@dataclass(frozen=True)
class Shard:
    """One tar: `bytes` in all, `samples` in it."""

    name: str
    bytes: int
    samples: int
    sha256: str


def shard_name(number: int) -> str:
    return f"shard-{number:06d}.tar"


def is_shard(key: str) -> bool:
    """PURE: whether a shard may be stored under this key."""
    return bool(_NAME.fullmatch(key))
