"""Worker processes that decode batch parts concurrently.

Each makes the parts of its own slots, writes them into a ring buffer in shared memory and sends only the buffer's
number. The loader's process copies the tensors once. torch's DataLoader starts the processes, asks them in turn and
notices when one dies.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from trainplane.data.load.batch_maker import BatchMaker, BatchPart
from trainplane.data.load.buffers import BufferPool, Layout, RingBuffer
from trainplane.data.types import Batch
from trainplane.store_wait import STORE_WAITS, SharedWaits
from trainplane.store_wait import VARIABLE as STORE_WAIT


def worker_parts(
    maker: BatchMaker, start: int, stop: int, slots: range, *, workers: int, prefetch: int
) -> Generator[BatchPart, None, None]:
    """Yields parts, with at most one process per slot."""
    # Not fork: a training process has threads (Ray's, torch's, ours), and a forked child would inherit their locks
    # as held.
    context = multiprocessing.get_context("forkserver")
    # Modules that the server imports need not be imported by its children: a task's module takes seconds. The server
    # is started once, so only the first such loader has an effect.
    transform = maker.transform if hasattr(maker.transform, "__name__") else type(maker.transform)
    context.set_forkserver_preload([__name__, *({transform.__module__} - {"__main__"})])
    # Contiguous shares, so that joining their parts in order gives the slots in order.
    bounds = [len(slots) * number // workers for number in range(workers + 1)]
    shares = [slots[low:high] for low, high in itertools.pairwise(bounds)]
    # The DataLoader lets a worker start `prefetch` parts beyond the one that was last received from it. That one is
    # copied before the next is received. So with one buffer more than `prefetch`, none is written while it is read.
    waits = [SharedWaits.new(context) for _ in shares]
    work = _Work(maker, start, stop, shares, num_buffers=prefetch + 1, settings=_store_settings(), waits=waits)
    messages: Any = iter(
        DataLoader(
            work,
            batch_size=None,
            collate_fn=_identity,
            num_workers=workers,
            prefetch_factor=prefetch,
            multiprocessing_context=context,
        )
    )
    rings: list[RingBuffer | None] = [None] * workers
    pool = BufferPool()
    try:
        with STORE_WAITS.watching(waits):
            # The DataLoader asks its workers in turn: each round is one step.
            for _ in range(start, stop):
                step_messages: list[_Message] = [next(messages) for _ in shares]
                rings = [message.ring or ring for message, ring in zip(step_messages, rings, strict=True)]
                yield _join(step_messages, rings, shares, pool)
    finally:
        # torch ends its workers when the iterator is collected, which the traceback of an error would delay.
        messages._shutdown_workers()


@dataclass(frozen=True)
class _Message:
    """Message of a worker about one part."""

    part: BatchPart  # without its tensors
    buffer: int  # number of the buffer that holds them
    ring: RingBuffer | None  # only if it is new


class _Work(IterableDataset[_Message]):
    """Work of one process: parts of its own slots."""

    def __init__(
        self,
        maker: BatchMaker,
        start: int,
        stop: int,
        shares: Sequence[range],
        *,
        num_buffers: int,
        settings: Mapping[str, str],
        waits: Sequence[SharedWaits],
    ) -> None:
        self._maker = maker
        self._start = start
        self._stop = stop
        self._shares = shares
        self._num_buffers = num_buffers
        self._settings = settings
        self._waits = waits
        self._ring: RingBuffer | None = None
        self._buffer = 0

    def __iter__(self) -> Iterator[_Message]:
        worker = get_worker_info()
        assert worker is not None
        os.environ.update(self._settings)
        STORE_WAITS.report_to(self._waits[worker.id])
        sent_ring = self._ring
        share = self._shares[worker.id]
        parts = self._maker.parts(
            self._start, self._stop, share, allocate=lambda layout: self._next_buffer(layout, share)
        )
        for part in parts:
            # A ring is sent once; later messages name its buffers.
            yield _Message(replace(part, batch={}), self._buffer, None if self._ring is sent_ring else self._ring)
            sent_ring = self._ring

    def _next_buffer(self, layout: Layout, share: range) -> Batch:
        if self._ring is None or self._ring.layout != layout:
            self._ring = RingBuffer(layout, len(share), num_buffers=self._num_buffers)
        self._buffer = (self._buffer + 1) % self._num_buffers
        return self._ring.buffer(self._buffer)


def _join(
    messages: Sequence[_Message], rings: Sequence[RingBuffer | None], shares: Sequence[range], pool: BufferPool
) -> BatchPart:
    """Joins the workers' parts in slot order, or their failure."""
    damage = [damage for message in messages for damage in message.part.damage]
    failure = next((message.part.failure for message in messages if message.part.failure is not None), None)
    if failure is not None:
        return BatchPart({}, damage, failure)
    layouts = {ring.layout for ring in rings if ring is not None}
    if len(layouts) > 1:
        raise ValueError(f"samples of one batch differ: [{'] and ['.join(map(str, layouts))}]; make them alike")
    batch = pool.allocate(next(iter(layouts)), sum(map(len, shares)))
    low = 0
    for message, ring, share in zip(messages, rings, shares, strict=True):
        assert ring is not None
        for name, tensor in ring.buffer(message.buffer).items():
            batch[name][low : low + len(share)].copy_(tensor)
        low += len(share)
    return BatchPart(batch, damage)


def _store_settings() -> dict[str, str]:
    # Returns the environment variables that stores read. A fork server keeps the environment of its own start, which
    # may be older.
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_") or name == STORE_WAIT}


def _identity(message: Any) -> Any:
    return message
