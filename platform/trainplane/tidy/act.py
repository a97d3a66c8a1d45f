"""Removes what a plan names, unless it became needed meanwhile.

First each item is prepared: a run's folder is fenced, a dataset is hidden. Then everything is looked at again, and
what is needed by now comes back. Only then bytes go. A remover checks its fence before each deletion. Killed anywhere,
the next call finds hidden things and decides about them again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from trainplane.errors import RunFailed, UserError
from trainplane.storage import StorageError
from trainplane.tidy.decide import Judgement, TidyPlan, decide
from trainplane.tidy.inventory import Inventory, Item, Kind, TidyRules

# Versions before the checkpoints that they need, checkpoints before their runs.
_ORDER: tuple[Kind, ...] = ("cache", "spool", "version", "checkpoint", "run", "dataset")


class StillUsed(RunFailed):
    """An item is used since it was looked at."""


class Remover(Protocol):
    """Removes items of one kind."""

    def prepare(self, item: Item) -> None:
        """Fences or hides an item; `StillUsed` where it changed."""

    def restore(self, item: Item) -> None:
        """Undoes `prepare`."""

    def remove(self, item: Item) -> None:
        """Removes a prepared item; `StillUsed` where it came to life."""


@dataclass(frozen=True)
class Removed:
    """Result of a removal."""

    gone: tuple[Item, ...]
    kept: tuple[Judgement, ...]  # with the reason

    @property
    def bytes(self) -> int:
        """Bytes that were freed."""
        return sum(item.bytes for item in self.gone)


def act(
    plan: TidyPlan,
    rules: TidyRules,
    removers: Mapping[Kind, Remover],
    look: Callable[[], Inventory],
    *,
    progress: Callable[[Item], None] = lambda item: None,
) -> Removed:
    """Removes the items of a plan.

    Args:
        plan: As it was shown.
        rules: By which it was made.
        removers: For each kind.
        look: Lists everything once more, after items are prepared.
        progress: Called after each removal.
    """
    prepared: list[Item] = []
    freed: list[Item] = []
    try:
        staying = _prepare(plan, removers, prepared)
        inventory = _as_old_as_planned(look(), prepared)
        staying += _remove(inventory, rules, removers, prepared, freed, progress)
    except BaseException:
        # What is hidden comes back at once; of what is half deleted, nothing can.
        for item in prepared:
            if item not in freed:
                _fault(removers[item.kind].restore, item)
        raise
    return Removed(tuple(freed), tuple(staying))


def _prepare(plan: TidyPlan, removers: Mapping[Kind, Remover], prepared: list[Item]) -> list[Judgement]:
    """Adds to `prepared`; returns what stays."""
    staying = []
    for item in _sorted(plan.removals):
        if (reason := _fault(removers[item.kind].prepare, item)) is None:
            prepared.append(item)
        else:
            staying.append(Judgement(item, reason))
    return staying


def _remove(
    inventory: Inventory,
    rules: TidyRules,
    removers: Mapping[Kind, Remover],
    prepared: Sequence[Item],
    freed: list[Item],
    progress: Callable[[Item], None],
) -> list[Judgement]:
    """Adds to `freed`; returns what stays."""
    staying = []
    # What is not prepared stays, and so does what that needs, whatever the rules would say of it.
    doomed = frozenset(item.address for item in prepared)
    still = decide(inventory, replace(rules, only=doomed))
    for item in prepared:
        if item.address not in still.addresses:
            reasons = {judgement.item.address: judgement.reason for judgement in still.needed}
            removers[item.kind].restore(item)
            staying.append(Judgement(item, reasons.get(item.address, "it changed meanwhile")))
        elif (reason := _fault(removers[item.kind].remove, item)) is None:
            freed.append(item)
            progress(item)
        else:
            # It stays after all, and with it what it needs.
            _fault(removers[item.kind].restore, item)
            staying.append(Judgement(item, reason))
            doomed -= {item.address}
            still = decide(inventory, replace(rules, only=doomed))
    return staying


def _as_old_as_planned(inventory: Inventory, prepared: Sequence[Item]) -> Inventory:
    # To fence a run or to hide a dataset writes to it, which is no use of it. Other changes show in its stamp.
    planned = {item.address: item.used_s for item in prepared if item.kind in ("run", "dataset")}
    items = (replace(item, used_s=planned.get(item.address, item.used_s)) for item in inventory.items)
    return replace(inventory, items=tuple(items))


def _fault(do: Callable[[Item], None], item: Item) -> str | None:
    """Message of what stops one item; None where it works."""
    # One item that cannot go is no reason to leave the others.
    try:
        do(item)
    except (RunFailed, UserError, StorageError, OSError) as error:
        return str(error)
    return None


def _sorted(removals: Sequence[Judgement]) -> list[Item]:
    return sorted((judgement.item for judgement in removals), key=lambda item: _ORDER.index(item.kind))
