"""Interface of packing executors, and the local one.

A *unit* is a run of entries of the listing: preparing it reads and checks its samples and returns an outcome for each.
A *shard* is built from prepared samples and stored. The leading process (pack.py) gets outcomes and descriptions, never
the bytes of a sample.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from trainplane.data.manifest import SkippedFile
from trainplane.data.pack.destination import ListingRange, PackedRange, ShardWriter
from trainplane.data.pack.shard_builder import PackItem, build_shard, tar_bytes
from trainplane.data.pack.sharding import Outcome, ShardPlan


class Packable(Protocol):
    """Entry of a listing: a sample not read yet."""

    @property
    def identity(self) -> str:
        """Text that differs for another sample, for resumed packings."""
        ...

    @property
    def size(self) -> int:
        """Approximate bytes to read."""
        ...

    def item(self) -> PackItem | SkippedFile | None:
        """Reads the sample.

        Returns the reason where it is skipped, None where it belongs to another split.
        """

    def portable(self) -> Packable:
        """Returns an equal entry that pickles for another process."""


Entry: TypeAlias = Packable | SkippedFile
Prepared: TypeAlias = tuple[list[Outcome], list[PackItem | None]]


class PackExecutor(ABC):
    """Works on units and shards; handles stand for unfinished work."""

    max_units: int  # in progress at once, which bounds memory
    max_shards: int  # in progress at once

    @abstractmethod
    def start_unit(self, entries: Sequence[Entry]) -> Any:
        """Starts to prepare a run of entries; returns a handle."""

    @abstractmethod
    def outcomes(self, unit: Any) -> Sequence[Outcome]:
        """Waits for a unit and returns its entries' outcomes."""

    @abstractmethod
    def start_shard(self, writer: ShardWriter, plan: ShardPlan, entries: ListingRange, units: Mapping[int, Any]) -> Any:
        """Starts to build and store a shard; returns a handle.

        `units` are the handles of the units that its samples are in, by number.
        """

    @abstractmethod
    def stored(self, shard: Any) -> PackedRange:
        """Waits until a shard is stored and describes it."""

    @abstractmethod
    def stop(self) -> None:
        """Ends all work in progress; nothing is stored after this."""


class LocalExecutor(PackExecutor):
    """Works in this process; nothing is ever in progress."""

    max_units = 1
    max_shards = 1

    def start_unit(self, entries: Sequence[Entry]) -> Prepared:
        """Prepares the entries."""
        return prepare(entries)

    def outcomes(self, unit: Prepared) -> Sequence[Outcome]:
        """Returns the outcomes of a prepared unit."""
        return unit[0]

    def start_shard(
        self, writer: ShardWriter, plan: ShardPlan, entries: ListingRange, units: Mapping[int, Prepared]
    ) -> PackedRange:
        """Builds and stores the shard."""
        return store_shard(writer, plan, entries, {number: items for number, (_, items) in units.items()})

    def stored(self, shard: PackedRange) -> PackedRange:
        """Returns the description of the shard."""
        return shard

    def stop(self) -> None:
        """Does nothing."""


def prepare(entries: Sequence[Entry]) -> Prepared:
    """Outcomes and items of a unit; `UserError` for unstorable samples."""
    outcomes: list[Outcome] = []
    items: list[PackItem | None] = []
    for entry in entries:
        result = entry if isinstance(entry, SkippedFile) else entry.item()
        items.append(result if isinstance(result, PackItem) else None)
        outcomes.append(tar_bytes(result) if isinstance(result, PackItem) else result)
    return outcomes, items


def store_shard(
    writer: ShardWriter, plan: ShardPlan, entries: ListingRange, units: Mapping[int, list[PackItem | None]]
) -> PackedRange:
    """Builds a shard of prepared items and stores it."""
    items = [item for unit, position in plan.samples if (item := units[unit][position]) is not None]
    return writer.write(plan, entries, build_shard(plan.number, items))
