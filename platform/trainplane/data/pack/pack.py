"""Pictures to shards: plain WebDataset tars, the index, and last of all the manifest.

    pack(pictures, "s3://bucket/datasets/mine", name="mine", split="train", how={"layout": "folder"})

Same pictures in the same order and same options give the same bytes, whoever does the work and however often it was
killed and run again: what is decided is decided in cut.py, from the outcomes of pictures in the order of the listing.
The packing is led from here; crew.py does the work, destination.py knows what is there already. Nothing is trusted
before the manifest is there. Not covered: finding, decoding, checking or re-encoding pictures: the caller's entries
do that.
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
from trainplane.data.index import IndexWriter
from trainplane.data.manifest import Dataset, Manifest, Skipped
from trainplane.data.pack.destination import Destination, Finished, Range
from trainplane.data.pack.executor import Alone, Crew, Entry
from trainplane.data.pack.listing import Listing
from trainplane.data.pack.sharding import Cut, Cutter
from trainplane.data.shard import Shard
from trainplane.data.shards import KEY_HASH, PackItem
from trainplane.errors import UserError
from trainplane.storage import Store, open_store

__all__ = ["DEFAULT_SHARD_BYTES", "PackItem", "pack"]

log = logging.getLogger(__name__)

DEFAULT_SHARD_BYTES = 64 * 1024 * 1024
_ALONE = Alone()
_UNIT_BYTES = 8 * 1024 * 1024  # read by one task; small beside a shard, large beside the cost of a task


def pack(
    pictures: Iterable[Entry],
    dest: str | Store,
    *,
    name: str,
    split: str,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    how: Mapping[str, Any],
    replace: bool = False,
    crew: Crew = _ALONE,
) -> Dataset:
    """Pack `pictures` in the order given into a dataset at `dest`.

    pictures    -- entries that become items, or that are skipped; what was skipped is told in the manifest
    shard_bytes -- a shard is closed before the sample that would make it larger
    how         -- the caller's options, JSON values; they are part of the digest
    replace     -- another dataset at `dest` may be replaced; without it that is refused
    crew        -- who does the work; it changes nothing of the result

    Where the same dataset stands already nothing is written, shards that are missing apart; where a packing of the
    same listing was killed, its shards are kept. A picture that comes twice, none at all, another dataset at `dest`,
    or another process packing there is a `UserError`.
    """
    store = open_store(dest) if isinstance(dest, str) else dest
    options = {"shard_bytes": shard_bytes, **how}
    _refuse_what_no_manifest_can_hold(name, split, options)
    index = IndexWriter()
    shards: list[Shard] = []
    skipped: list[Skipped] = []
    hashes = array("Q")
    with ExitStack() as stack:
        place = stack.enter_context(Destination(store, replace=replace, options=options))
        stack.callback(crew.stop)
        for done in _finished_shards(Listing(pictures), place, crew, shard_bytes):
            skipped += done.skipped
            if done.shard is not None:
                index.add(done.shard.name, done.rows)
                shards.append(done.shard)
                hashes.extend(int(row.key[-KEY_HASH:], 16) for row in done.rows)
        if not shards:
            raise UserError(f"{store.address}: nothing to pack, {_why(skipped)}; give pictures")
        _refuse_twins(hashes)
        return place.seal(name=name, split=split, shards=shards, index=index.finish(), skipped=skipped)


def _finished_shards(listing: Listing, place: Destination, crew: Crew, shard_bytes: int) -> Iterator[Finished]:
    """All shards of the listing in order: those that an earlier packing stored, and between them new ones."""
    notes = place.notes()
    number = kept = 0
    while True:
        note, at = notes.get(number), listing.at
        done = place.finished(number) if note and note.starts_at(at, listing.digest_at(at)) else None
        if note and done and listing.pass_over(note.stop, note.after):
            yield done
            number, kept = number + 1, kept + 1
            continue
        # Behind a gap a shard begins where it began before: the same entries are cut at the same places.
        stops = {later.start: later.before for other, later in notes.items() if other > number}
        cutter = Cutter(number=number, start=at, shard_bytes=shard_bytes)
        yield from _new_shards(listing, place, crew, cutter, stops)
        number = cutter.number
        if listing.at == at:
            break
    if kept:
        log.warning("%d of %d shards had been stored by an earlier packing and were kept", kept, number)


def _new_shards(
    listing: Listing, place: Destination, crew: Crew, cutter: Cutter, stops: Mapping[int, str]
) -> Iterator[Finished]:
    """Shards of the entries from here to the next of `stops`, or to the end."""
    units: dict[int, Any] = {}  # under way or prepared, until no shard needs them any more
    waiting: deque[int] = deque()  # those whose outcomes have not been looked at
    under_way: deque[Any] = deque()
    count, is_over = 0, False

    def begin(cut: Cut) -> Iterator[Finished]:
        if not cut.picks:
            yield Finished(None, (), cut.skipped)
            return
        while len(under_way) >= crew.shards:
            yield crew.finished(under_way.popleft())
        place.claim()
        where = Range(cut.start, cut.stop, listing.digest_at(cut.start), listing.digest_at(cut.stop))
        under_way.append(crew.begin_shard(place.place, cut, where, {unit: units[unit] for unit, _ in cut.picks}))
        listing.forget(cut.stop)

    while True:
        while not is_over and len(waiting) < crew.units:
            entries = listing.unit(most_bytes=_UNIT_BYTES, stops=stops)
            if entries:
                units[count] = crew.begin_unit(entries)
                waiting.append(count)
                count += 1
            is_over = not entries or stops.get(listing.at) == listing.digest_at(listing.at)
        if not waiting:
            break
        unit = waiting.popleft()
        for cut in cutter.feed(unit, crew.outcomes(units[unit])):
            yield from begin(cut)
        for gone in range(min(units), min(cutter.first_unit, unit + 1)):
            del units[gone]
    for cut in cutter.finish():
        yield from begin(cut)
    while under_way:
        yield crew.finished(under_way.popleft())


def _why(skipped: Sequence[Skipped]) -> str:
    if not skipped:
        return "no picture was found"
    count = "1 file was" if len(skipped) == 1 else f"{len(skipped)} files were"
    return f"{count} left out, the first: {skipped[0].file}: {skipped[0].reason}"


def _refuse_what_no_manifest_can_hold(name: str, split: str, options: Mapping[str, Any]) -> None:
    # Before hours of packing rather than after.
    Manifest(name, split, (), 0, "", (), options)
    if options["shard_bytes"] <= 0:
        raise UserError(f"shard_bytes={options['shard_bytes']}: need a positive number of bytes")
    try:
        canonical_json(options)
    except (TypeError, ValueError) as error:
        raise UserError(f"how the dataset is packed cannot be recorded as JSON ({error}); give plain values") from error


def _refuse_twins(hashes: array[int]) -> None:
    values, counts = np.unique(np.frombuffer(hashes, dtype=np.uint64), return_counts=True)
    if (twins := values[counts > 1]).size:
        raise UserError(
            f"{twins.size} pictures were given twice (the first has a key ending in -{int(twins[0]):0{KEY_HASH}x}); "
            "give each path once"
        )
