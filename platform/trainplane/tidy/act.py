"""Removes what a plan names, unless it became needed meanwhile.

First each item is prepared: a run's folder is fenced, a dataset is hidden. Then everything is looked at again, and
what is needed by now comes back. Only then bytes go. A remover checks its fence before each deletion. Killed anywhere,
the next call finds hidden things and decides about them again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from trainplane.errors import RunFailed, UserError
from trainplane.storage import StorageError
from trainplane.tidy.decide import Judgement, TidyPlan
from trainplane.tidy.inventory import Item, Kind

# Versions before the checkpoints that they need, checkpoints before their runs.
_ORDER: tuple[Kind, ...] = ("cache", "spool", "version", "checkpoint", "run", "dataset")


class InUse(RunFailed):
    """An item is used since it was looked at."""


class Remover(Protocol):
    """Removes items of one kind."""

    def prepare(self, item: Item) -> None:
        """Fences or hides an item; `InUse` where it changed."""

    def restore(self, item: Item) -> None:
        """Undoes `prepare`."""

    def remove(self, item: Item) -> None:
        """Removes a prepared item; `InUse` where it came to life."""


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
    removers: Mapping[Kind, Remover],
    again: Callable[[], TidyPlan],
    *,
    progress: Callable[[Item], None] = lambda item: None,
) -> Removed:
    """Removes the items of a plan.

    Args:
        plan: As it was shown.
        removers: For each kind.
        again: Looks at everything once more, after items are prepared.
        progress: Called after each removal.
    """
    staying: list[Judgement] = []
    prepared = _each(_sorted(plan.removals), lambda item: removers[item.kind].prepare(item), staying)
    try:
        still = again()
    except BaseException:
        for item in prepared:
            removers[item.kind].restore(item)
        raise
    reasons = {judgement.item.address: judgement.reason for judgement in still.needed}
    doomed = [item for item in prepared if item.address in still.addresses]
    for item in prepared:
        if item.address not in still.addresses:
            removers[item.kind].restore(item)
            staying.append(Judgement(item, reasons.get(item.address, "it changed meanwhile")))

    def remove(item: Item) -> None:
        removers[item.kind].remove(item)
        progress(item)

    return Removed(tuple(_each(doomed, remove, staying)), tuple(staying))


def _sorted(removals: Sequence[Judgement]) -> list[Item]:
    return sorted((judgement.item for judgement in removals), key=lambda item: _ORDER.index(item.kind))


def _each(items: Sequence[Item], do: Callable[[Item], None], kept: list[Judgement]) -> list[Item]:
    """Items for which `do` succeeded; the others go to `kept`."""
    done = []
    for item in items:
        try:
            do(item)
        # One item that cannot go is no reason to leave the others.
        except (RunFailed, UserError, StorageError, OSError) as error:
            kept.append(Judgement(item, str(error)))
        else:
            done.append(item)
    return done
