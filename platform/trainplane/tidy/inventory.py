"""Stored things, with what each of them needs.

    version ──▶ checkpoint ──▶ its run ──▶ dataset ──▶ datasets whose shards it shares
                run ──▶ checkpoints that its own rules keep, and the one it began at

An item's names are all by which others speak of it: its address, the end of it, a digest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainplane.errors import UserError

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


@dataclass(frozen=True)
class TidyRules:
    """Limits of a removal."""

    older_than_s: float
    kinds: frozenset[Kind] = frozenset(KINDS)
    min_bytes: int = 0
    only: frozenset[str] | None = None  # addresses; None: everything


def place(address: str) -> str:
    """Name of a run or checkpoint under any mount.

    Another machine may see the store below another path, and has recorded that one.
    """
    rest, _, last = address.rstrip("/").rpartition("/")
    return f"at:{rest.rpartition('/')[2]}/{last}" if last.startswith("step-") else f"at:{last}"


def unread(what: str, why: object) -> UserError:
    """Error about a thing whose needs are not known."""
    return UserError(
        f"{what} cannot be read ({why}), so nobody knows what it needs, and nothing is removed; mend it, or move it "
        "out of the store"
    )
