"""Processes that make parts of batches beside each other, each for its own share of a rank's slots.

A worker lays its parts into a ring of shared memory and sends only which place it filled; here they are copied once,
into the batch that is handed out. torch's DataLoader starts the processes, hands out turns and notices when one dies.
Not covered: how a part is made (parts.py), and what becomes of failures and damage (loader.py).
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from trainplane.data.load.batch_maker import Feed, Part
from trainplane.data.load.buffers import Layout, Ring, Shelf
from trainplane.data.types import Batch


def parts_of_workers(
    feed: Feed, start: int, stop: int, slots: range, *, workers: int, prefetch: int
) -> Generator[Part, None, None]:
    """The parts of `slots` for each global step start … stop - 1, made by `workers` processes `prefetch` ahead."""
    # Not fork: a training process has threads (Ray's, torch's, ours) whose locks a forked child would inherit held.
    context = multiprocessing.get_context("forkserver")
    # What it imports, its children need not: a task's module takes seconds. Only the first such loader has a say.
    maker = feed.transform if hasattr(feed.transform, "__name__") else type(feed.transform)
    context.set_forkserver_preload([__name__, *({maker.__module__} - {"__main__"})])
    # Contiguous shares, so that joining their parts in order gives the slots in order.
    bounds = [len(slots) * number // workers for number in range(workers + 1)]
    shares = [slots[low:high] for low, high in itertools.pairwise(bounds)]
    # The DataLoader lets a worker begin `prefetch` parts beyond the one that was last taken from it. That one is
    # copied before another is taken: one place more than `prefetch` is never written while it is read.
    work = _Work(feed, start, stop, shares, num_places=prefetch + 1, settings=_store_settings())
    drawn: Any = iter(
        DataLoader(
            work,
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=workers,
            prefetch_factor=prefetch,
            multiprocessing_context=context,
        )
    )
    rings: list[Ring | None] = [None] * workers
    shelf = Shelf()
    try:
        # The DataLoader goes round its workers: each round is one step.
        for _ in range(start, stop):
            sent: list[_Sent] = [next(drawn) for _ in shares]
            rings = [one.ring or ring for one, ring in zip(sent, rings, strict=True)]
            yield _joined(sent, rings, shares, shelf)
    finally:
        # torch ends its workers when the iterator is collected, which the traceback of an error would put off.
        drawn._shutdown_workers()


@dataclass(frozen=True)
class _Sent:
    """What a worker sends of a part: all but its tensors, the place where those lie, and the ring when it is new."""

    part: Part
    place: int
    ring: Ring | None


class _Work(IterableDataset[_Sent]):
    """What one worker process makes: the parts of its share of the slots."""

    def __init__(
        self,
        feed: Feed,
        start: int,
        stop: int,
        shares: Sequence[range],
        *,
        num_places: int,
        settings: Mapping[str, str],
    ) -> None:
        self._feed = feed
        self._start = start
        self._stop = stop
        self._shares = shares
        self._num_places = num_places
        self._settings = settings
        self._ring: Ring | None = None
        self._place = 0

    def __iter__(self) -> Iterator[_Sent]:
        worker = get_worker_info()
        assert worker is not None
        os.environ.update(self._settings)
        known = self._ring
        share = self._shares[worker.id]
        for part in self._feed.parts(self._start, self._stop, share, room=lambda layout: self._room(layout, share)):
            yield _Sent(replace(part, batch={}), self._place, None if self._ring is known else self._ring)
            known = self._ring

    def _room(self, layout: Layout, share: range) -> Batch:
        if self._ring is None or self._ring.layout != layout:
            self._ring = Ring(layout, len(share), num_places=self._num_places)
        self._place = (self._place + 1) % self._num_places
        return self._ring.place(self._place)


def _joined(sent: Sequence[_Sent], rings: Sequence[Ring | None], shares: Sequence[range], shelf: Shelf) -> Part:
    """One part of the slots of several, in their order; the first failure is its failure."""
    damage = [damage for one in sent for damage in one.part.damage]
    failure = next((one.part.failure for one in sent if one.part.failure is not None), None)
    if failure is not None:
        return Part({}, damage, failure)
    layouts = {ring.layout for ring in rings if ring is not None}
    if len(layouts) > 1:
        raise ValueError(f"samples of one batch differ: [{'] and ['.join(map(str, layouts))}]; make them alike")
    batch = shelf.room(next(iter(layouts)), sum(map(len, shares)))
    low = 0
    for one, ring, share in zip(sent, rings, shares, strict=True):
        assert ring is not None
        for name, tensor in ring.place(one.place).items():
            batch[name][low : low + len(share)].copy_(tensor)
        low += len(share)
    return Part(batch, damage)


def _store_settings() -> dict[str, str]:
    """The environment that stores read. A fork server keeps the one of its own start, which may be older."""
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_")}


def _as_it_is(sent: Any) -> Any:
    return sent
