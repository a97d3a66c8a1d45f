"""Stored things, with what each of them needs.

    version ──▶ checkpoint ──▶ its run ──▶ dataset ──▶ datasets whose shards it shares
                run ──▶ checkpoints that its own rules keep, and the one it began at

An item's names are all by which others speak of it: its address, a digest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["run", "checkpoint", "dataset", "version", "cache", "spool"]
KINDS: tuple[Kind, ...] = ("run", "checkpoint", "dataset", "version", "cache", "spool")


@dataclass(frozen=True)
class Item:
    """One stored thing."""

    kind: Kind
    address: str
    bytes: int
    used_s: float  # last change, seconds since 1970
    names: frozenset[str] = frozenset()  # beside the address
    needs: frozenset[str] = frozenset()  # names of other items
    needed_by: str = ""  # who needs it, if that is no item; empty: nobody
    stamp: str = ""  # changes when it comes to life again


@dataclass(frozen=True)
class Inventory:
    """Everything that was seen, at one time."""

    items: tuple[Item, ...]
    now_s: float
    # Notes for people, such as a store that could not be listed.
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TidyRules:
    """Limits of a removal."""

    older_than_s: float
    kinds: frozenset[Kind] = frozenset(KINDS)
    min_bytes: int = 0
    only: frozenset[str] | None = None  # addresses; None: everything
