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

import weakref
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from types import TracebackType

from trainplane.data.damage import Damage, DamageError
from trainplane.data.load.batch_maker import Feed, OnDamage, Part
from trainplane.data.load.workers import parts_of_workers
from trainplane.data.manifest import Dataset
from trainplane.data.read.fetch import DEFAULT_CACHE_BYTES
from trainplane.data.types import Batch, Transform
from trainplane.errors import UserError


class Loader:
    """This rank's share of every global batch.

    global_batch, rank, world -- the share is `global_batch // world` samples; others than divisors are refused
    workers       -- decoding processes, at most one per sample of the share; 0 decodes in a thread
    prefetch      -- batches made ahead, per worker
    on_damage     -- "fail": the first damaged sample raises `DamageError`; "quarantine": another takes its place
    damage_budget -- distinct samples that this rank may do without before it raises all the same. It is each rank's
                     own and begins anew with each loader: a bound on how bad a place may be, not a count of the run,
                     which would take a message between all ranks for every batch
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
        self._order = dataset.order(seed=seed, global_batch=global_batch)
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
        if self._workers == 0:
            made = self._feed.parts(start, stop, self._slots)
        else:
            made = parts_of_workers(
                self._feed, start, stop, self._slots, workers=self._workers, prefetch=self._prefetch
            )
        with closing(made):
            for part in made:
                yield part
                if part.failure is not None:
                    return

    def _account(self, part: Part) -> None:
        """Count the part's damage; raise its failure, or that the budget is spent."""
        met = part.failure.damage if isinstance(part.failure, DamageError) else part.damage
        for one in met:
            self._damage.setdefault((one.shard, one.key), one)
        if part.failure is not None:
            raise part.failure
        if len(self._damage) > self._damage_budget:
            usual = (
                f"that is more than data.damage_budget={self._damage_budget}; verify it, then repair it or pack again, "
                "or raise the budget"
            )
            raise DamageError(self._dataset.address, self.damage, self._dataset.remedy(usual))
