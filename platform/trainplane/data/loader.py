"""Batches for one rank: the order's samples, fetched, decoded by the task's transform, stacked, and made ahead.

    with Loader(dataset, transform=transform, seed=10, global_batch=64, rank=rank, world=world, workers=4) as loader:
        for step, batch in loader.batches(start=1200, stop=5000):
            ...

Steps are global and run through all epochs, so every rank makes equally many and resuming is naming a step. With
`workers=0` a thread of this process decodes; otherwise that many processes share out the rank's slots, each reading
only its own. Neither their number nor chance changes a batch: a sample's randomness is a function of (seed, epoch,
sample). Damaged samples end the run, or are replaced by the order's pure rule and counted. Not covered: what is
inside a sample; moving batches to a device.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import weakref
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from types import TracebackType
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from trainplane.data.damage import Damage, DamageError
from trainplane.data.fetch import DEFAULT_CACHE_BYTES
from trainplane.data.manifest import Dataset
from trainplane.data.order import Order
from trainplane.data.parts import Feed, OnDamage, Part, joined
from trainplane.errors import UserError
from trainplane.task import Batch, Transform


class Loader:
    """This rank's share of every global batch.

    global_batch, rank, world -- the share is `global_batch // world` samples; others than divisors are refused
    workers       -- decoding processes, at most one per sample of the share; 0 decodes in a thread
    prefetch      -- batches made ahead, per worker
    on_damage     -- "fail": the first damaged sample raises `DamageError`; "quarantine": another takes its place
    damage_budget -- distinct samples that this rank may do without before it raises all the same
    cache_bytes   -- memory for bytes read ahead, over all workers of this rank
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        transform: Transform,
        seed: int,
        global_batch: int,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        prefetch: int = 2,
        on_damage: OnDamage = "fail",
        damage_budget: int = 10,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        if workers < 0 or prefetch < 1:
            raise UserError(f"workers={workers}, prefetch={prefetch}: need at least 0 and 1")
        self._order = Order(
            digest=dataset.digest, shard_sizes=dataset.shard_sizes, seed=seed, global_batch=global_batch
        )
        self._dataset = dataset
        self._slots = self._order.slots(rank=rank, world=world)
        self._workers = min(workers, len(self._slots))
        self._prefetch = prefetch
        self._damage_budget = damage_budget
        self._feed = Feed(
            dataset=dataset,
            order=self._order,
            seed=seed,
            transform=transform,
            on_damage=on_damage,
            cache_bytes=cache_bytes // max(1, self._workers),
        )
        self._damage: dict[tuple[str, str], Damage] = {}
        self._open: weakref.WeakSet[Generator[tuple[int, Batch], None, None]] = weakref.WeakSet()

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def order_hash(self) -> str:
        """Two loaders with equal hashes make equal batches; checkpoints carry it."""
        return self._order.hash

    @property
    def steps_per_epoch(self) -> int:
        return self._order.steps_per_epoch

    @property
    def damage(self) -> list[Damage]:
        """The distinct damaged samples that this rank has met in batches it handed out, in order of meeting."""
        return list(self._damage.values())

    def batches(self, *, start: int, stop: int) -> Iterator[tuple[int, Batch]]:
        """(step, batch) for the global steps start … stop - 1; tensors of shape (share, …), pinned where CUDA is.

        Threads and processes that make them end with the iterator: when it is exhausted, closed, dropped, or fails.
        """
        if not 0 <= start <= stop:
            raise ValueError(f"steps {start} to {stop}")
        stream = self._stream(start, stop)
        self._open.add(stream)
        return stream

    def close(self) -> None:
        """End every iterator that is still open, with its threads and processes."""
        for stream in list(self._open):
            stream.close()

    def _stream(self, start: int, stop: int) -> Generator[tuple[int, Batch], None, None]:
        # One thread draws from the generator, so parts come in order, and its errors arrive where they are awaited.
        with closing(self._whole_parts(start, stop)) as parts, ThreadPoolExecutor(1, "loader") as thread:
            ahead = deque(thread.submit(next, parts) for _ in range(min(self._prefetch, stop - start)))
            try:
                for step in range(start, stop):
                    part = ahead.popleft().result()
                    if step + 1 + len(ahead) < stop:
                        ahead.append(thread.submit(next, parts))
                    self._account(part)
                    yield step, part.batch
            finally:
                thread.shutdown(wait=True, cancel_futures=True)

    def _whole_parts(self, start: int, stop: int) -> Generator[Part, None, None]:
        """The parts of all of this rank's slots, up to a failure."""
        inline = self._workers == 0
        made = self._feed.parts(start, stop, self._slots) if inline else self._parts_of_workers(start, stop)
        with closing(made):
            for part in made:
                yield part.pinned()
                if part.failure is not None:
                    return

    def _parts_of_workers(self, start: int, stop: int) -> Generator[Part, None, None]:
        # Not fork: a training process has threads (Ray's, torch's, ours) whose locks a forked child would inherit held.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        # Contiguous shares, so that joining their parts in order gives the slots in order.
        bounds = [len(self._slots) * number // self._workers for number in range(self._workers + 1)]
        shares = [self._slots[low:high] for low, high in itertools.pairwise(bounds)]
        drawn: Any = iter(
            DataLoader(
                _PartsOfWorker(self._feed, start, stop, shares, _store_settings()),
                batch_size=None,
                collate_fn=_as_it_is,
                num_workers=len(shares),
                prefetch_factor=self._prefetch,
                multiprocessing_context=context,
            )
        )
        try:
            # The DataLoader goes round its workers: each round is one step.
            for _ in range(start, stop):
                yield joined([next(drawn) for _ in shares])
        finally:
            # torch ends its workers when the iterator is collected, which the traceback of an error would put off.
            drawn._shutdown_workers()

    def _account(self, part: Part) -> None:
        """Count the part's damage; raise its failure, or that the budget is spent."""
        met = part.failure.damage if isinstance(part.failure, DamageError) else part.damage
        for one in met:
            self._damage.setdefault((one.shard, one.key), one)
        if part.failure is not None:
            raise part.failure
        if len(self._damage) > self._damage_budget:
            raise DamageError(
                self._dataset.address,
                self.damage,
                f"that is more than data.damage_budget={self._damage_budget}; verify it, then repair it or pack again, "
                "or raise the budget",
            )


class _PartsOfWorker(IterableDataset[Part]):
    """What one worker process makes: the parts of its share of the slots."""

    def __init__(self, feed: Feed, start: int, stop: int, shares: Sequence[range], settings: Mapping[str, str]) -> None:
        self._feed = feed
        self._start = start
        self._stop = stop
        self._shares = shares
        self._settings = settings

    def __iter__(self) -> Iterator[Part]:
        worker = get_worker_info()
        assert worker is not None
        os.environ.update(self._settings)
        return self._feed.parts(self._start, self._stop, self._shares[worker.id])


def _store_settings() -> dict[str, str]:
    """The environment that stores read. A fork server keeps the one of its own start, which may be older."""
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_")}


def _as_it_is(part: Any) -> Any:
    return part
