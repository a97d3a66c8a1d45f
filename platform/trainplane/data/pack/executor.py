"""Who does the work of a packing: this process, one thing after the other. (crew_on_ray.py: the tasks of a cluster.)

Work comes in two kinds. A *unit* is a run of entries of the listing; preparing it reads and checks its pictures and
tells what each came to. A shard is built of prepared pictures and stored. Whoever leads sees outcomes and findings,
never a picture.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from trainplane.data.manifest import Skipped
from trainplane.data.pack.destination import Finished, Place, Range
from trainplane.data.pack.sharding import Cut, Outcome
from trainplane.data.shards import PackItem, build_shard, footprint


class Packable(Protocol):
    """An entry of a listing: a picture that is yet to be read.

    identity -- a text that is another when the picture is another; a resumed packing goes by it
    size     -- bytes to read, about
    """

    @property
    def identity(self) -> str: ...

    @property
    def size(self) -> int: ...

    def item(self) -> PackItem | Skipped | None:
        """The picture as it shall be stored, why it is left out, or None where it was not asked for."""

    def portable(self) -> Packable:
        """The same for another process: it pickles, and needs nothing of this one."""


Entry: TypeAlias = Packable | Skipped
Prepared: TypeAlias = tuple[list[Outcome], list[PackItem | None]]


class Crew(ABC):
    """Does units and shards, some at once; a handle stands for work under way.

    units, shards -- how many may be under way, so that memory stays bounded
    """

    units: int
    shards: int

    @abstractmethod
    def begin_unit(self, entries: Sequence[Entry]) -> Any:
        """Begin to prepare a run of entries."""

    @abstractmethod
    def outcomes(self, unit: Any) -> Sequence[Outcome]:
        """What each entry of the unit came to; waits for it."""

    @abstractmethod
    def begin_shard(self, place: Place, cut: Cut, where: Range, units: Mapping[int, Any]) -> Any:
        """Begin to build and store a shard of samples of these units."""

    @abstractmethod
    def finished(self, shard: Any) -> Finished:
        """What is to be known of the stored shard; waits for it."""

    @abstractmethod
    def stop(self) -> None:
        """The packing is over or given up: nothing that is under way may be stored after this."""


class Alone(Crew):
    """This process; nothing is ever under way."""

    units = 1
    shards = 1

    def begin_unit(self, entries: Sequence[Entry]) -> Prepared:
        return prepare(entries)

    def outcomes(self, unit: Prepared) -> Sequence[Outcome]:
        return unit[0]

    def begin_shard(self, place: Place, cut: Cut, where: Range, units: Mapping[int, Prepared]) -> Finished:
        return store_shard(place, cut, where, {number: items for number, (_, items) in units.items()})

    def finished(self, shard: Finished) -> Finished:
        return shard

    def stop(self) -> None:
        return None


def prepare(entries: Sequence[Entry]) -> Prepared:
    """Outcomes, and the items where there are any; a `UserError` where a picture cannot be stored as it is."""
    outcomes: list[Outcome] = []
    items: list[PackItem | None] = []
    for entry in entries:
        made = entry if isinstance(entry, Skipped) else entry.item()
        items.append(made if isinstance(made, PackItem) else None)
        outcomes.append(footprint(made) if isinstance(made, PackItem) else made)
    return outcomes, items


def store_shard(place: Place, cut: Cut, where: Range, units: Mapping[int, list[PackItem | None]]) -> Finished:
    """Build the shard and put it into its place."""
    items = [item for unit, at in cut.picks if (item := units[unit][at]) is not None]
    return place.put(cut, where, build_shard(cut.number, items))
