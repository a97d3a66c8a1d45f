"""Packs samples into shards: WebDataset tars, the index, the manifest.

    pack(entries, "s3://bucket/datasets/mine", name="mine", split="train", how={"layout": "folder"})

The same samples in the same order with the same options give the same bytes, with any executor and after any number of
killed attempts: sharding.py decides from the outcomes in the order of the listing. executor.py does the work,
destination.py has what is stored already. There is no dataset before the manifest is stored, which comes last.
"""

from __future__ import annotations

import logging
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from trainplane.config.canonical import canonical_json
from trainplane.data.grow.inheritance import Inheritance
from trainplane.data.index import IndexWriter
from trainplane.data.manifest import Dataset, Manifest, SkippedFile
from trainplane.data.pack.destination import Destination, ListingRange, PackedRange
from trainplane.data.pack.executor import Entry, LocalExecutor, PackExecutor
from trainplane.data.pack.listing import Listing
from trainplane.data.pack.shard_builder import KEY_HASH, PackItem
from trainplane.data.pack.sharding import Sharder, ShardPlan
from trainplane.data.shard import Shard
from trainplane.errors import UserError
from trainplane.storage import Store, open_store

__all__ = ["DEFAULT_SHARD_BYTES", "NothingNew", "PackItem", "pack"]

log = logging.getLogger(__name__)

DEFAULT_SHARD_BYTES = 64 * 1024 * 1024
_LOCAL = LocalExecutor()
_UNIT_BYTES = 8 * 1024 * 1024  # read by one task: small against a shard, large against the cost of a task


class NothingNew(Exception):
    """None of the entries was packed; the text says why."""


def pack(
    entries: Iterable[Entry],
    dest: str | Store,
    *,
    name: str,
    split: str,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    how: Mapping[str, Any],
    replace: bool = False,
    executor: PackExecutor = _LOCAL,
    inherited: Sequence[Inheritance] = (),
    needs_new: bool = False,
) -> Dataset:
    """Packs samples in the given order into a dataset.

    Where the same dataset exists, only missing shards are written; shards of a killed packing of the same listing are
    kept. Raises `UserError` if a sample comes twice, there is none, another dataset is at `dest`, or another process
    packs there.

    Args:
        entries: Samples to read, and files that are skipped; the manifest lists the latter.
        dest: Address or store of the dataset.
        name: Name of the dataset.
        split: Such as "train".
        shard_bytes: A shard is closed before the sample that would make it larger.
        how: Options of the caller, JSON values; they are part of the digest.
        replace: True replaces another dataset at `dest`.
        executor: Does the work; it does not change the result.
        inherited: Samples of other datasets, which come first; their shards are not copied.
        needs_new: True raises `NothingNew` unless one of the entries is packed.
    """
    store = open_store(dest) if isinstance(dest, str) else dest
    options = {"shard_bytes": shard_bytes, **how}
    _check_options(name, split, options)
    index = IndexWriter()
    shards: list[Shard] = []
    skipped: list[SkippedFile] = []
    # Key hashes alone, 8 bytes per sample, are enough to find duplicates.
    hashes = array("Q")
    for inheritance in inherited:
        for shard, rows in inheritance.shards(store.address):
            index.add_rows(rows)
            shards.append(shard)
            hashes.extend(int(key[-KEY_HASH:], 16) for key in rows.column("key").to_pylist())
    count = len(shards)
    with ExitStack() as stack:
        destination = stack.enter_context(Destination(store, replace=replace, options=options))
        # Called before the destination's exit: no task may write after the lease is released.
        stack.callback(executor.stop)
        for packed in _all_ranges(Listing(entries), destination, executor, shard_bytes):
            skipped += packed.skipped
            if packed.shard is not None:
                index.add(packed.shard.name, packed.rows)
                shards.append(packed.shard)
                hashes.extend(int(row.key[-KEY_HASH:], 16) for row in packed.rows)
        if needs_new and len(shards) == count:
            raise NothingNew(_reason(skipped))
        if not shards:
            raise UserError(f"{store.address}: nothing to pack, {_reason(skipped)}; give samples")
        _refuse_duplicates(hashes)
        return destination.commit(name=name, split=split, shards=shards, index=index.finish(), skipped=skipped)


def _all_ranges(
    listing: Listing, destination: Destination, executor: PackExecutor, shard_bytes: int
) -> Iterator[PackedRange]:
    """Yields all shards in order, stored earlier or now."""
    stored = destination.stored_ranges()
    number = reused = 0
    while True:
        # Reuse a stored shard if the listing up to its end is unchanged.
        entries, start = stored.get(number), listing.position
        matches = entries is not None and entries.starts_at(start, listing.digest_at(start))
        packed = destination.packed_range(number) if matches else None
        if entries and packed and listing.skip_to(entries.stop, entries.after):
            yield packed
            number, reused = number + 1, reused + 1
            continue
        # Else pack up to the next stored shard. Behind a gap it begins where it began before: the same entries are
        # divided at the same positions.
        stops = {later.start: later.before for shard, later in stored.items() if shard > number}
        sharder = Sharder(number=number, start=start, shard_bytes=shard_bytes)
        yield from _new_ranges(listing, destination, executor, sharder, stops)
        number = sharder.number
        # The listing has ended.
        if listing.position == start:
            break
    if reused:
        log.warning("%d of %d shards had been stored by an earlier packing and were kept", reused, number)


def _new_ranges(
    listing: Listing,
    destination: Destination,
    executor: PackExecutor,
    sharder: Sharder,
    stops: Mapping[int, str],
) -> Iterator[PackedRange]:
    # Packs entries up to the next of `stops`, or all. `stops` are digests of the listing by position; packing stops at
    # one that matches.
    units: dict[int, Any] = {}  # handles of units that an open or later shard needs
    unread: deque[int] = deque()  # units whose outcomes were not read yet
    in_progress: deque[Any] = deque()  # handles of shards
    count, is_over = 0, False

    def start(plan: ShardPlan) -> Iterator[PackedRange]:
        if not plan.samples:
            yield PackedRange(None, (), plan.skipped)
            return
        # Shards are yielded in order, so wait for the oldest.
        while len(in_progress) >= executor.max_shards:
            yield executor.stored(in_progress.popleft())
        destination.acquire()
        entries = ListingRange(plan.start, plan.stop, listing.digest_at(plan.start), listing.digest_at(plan.stop))
        shard_units = {unit: units[unit] for unit, _ in plan.samples}
        in_progress.append(executor.start_shard(destination.writer, plan, entries, shard_units))
        listing.drop_digests_before(plan.stop)

    while True:
        # Keep the executor busy with units ahead of the one that is read next.
        while not is_over and len(unread) < executor.max_units:
            entries = listing.next_unit(max_bytes=_UNIT_BYTES, stops=stops)
            if entries:
                units[count] = executor.start_unit(entries)
                unread.append(count)
                count += 1
            is_over = not entries or stops.get(listing.position) == listing.digest_at(listing.position)
        if not unread:
            break
        unit = unread.popleft()
        for plan in sharder.feed(unit, executor.outcomes(units[unit])):
            yield from start(plan)
        # Free units whose samples are all in closed shards.
        for used in range(min(units), min(sharder.first_unit, unit + 1)):
            del units[used]
    for plan in sharder.finish():
        yield from start(plan)
    while in_progress:
        yield executor.stored(in_progress.popleft())


def _reason(skipped: Sequence[SkippedFile]) -> str:
    if not skipped:
        return "no sample was found"
    count = "1 file was" if len(skipped) == 1 else f"{len(skipped)} files were"
    return f"{count} left out, the first: {skipped[0].file}: {skipped[0].reason}"


def _check_options(name: str, split: str, options: Mapping[str, Any]) -> None:
    # Refuse what no manifest can hold before hours of packing rather than after.
    Manifest(name, split, (), 0, "", (), options)
    if options["shard_bytes"] <= 0:
        raise UserError(f"shard_bytes={options['shard_bytes']}: need a positive number of bytes")
    try:
        canonical_json(options)
    except (TypeError, ValueError) as error:
        raise UserError(f"how the dataset is packed cannot be recorded as JSON ({error}); give plain values") from error


def _refuse_duplicates(hashes: array[int]) -> None:
    values, counts = np.unique(np.frombuffer(hashes, dtype=np.uint64), return_counts=True)
    if (duplicates := values[counts > 1]).size:
        raise UserError(
            f"{duplicates.size} samples were given twice (the first has a key ending in "
            f"-{int(duplicates[0]):0{KEY_HASH}x}); give each path once"
        )
