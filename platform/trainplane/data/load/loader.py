"""Loads the batches of one rank, ahead of use.

    with Loader(dataset, transform=transform, seed=10, global_batch=64, rank=rank, world=world, workers=4) as loader:
        for step, batch in loader.batches(start=1200, stop=5000):
            ...

Steps are global and count through all epochs, so every rank makes equally many batches and a run resumes at any step.
With `workers=0` a thread decodes, else so many processes share the rank's slots. Neither their number nor chance
changes a batch: a sample's randomness is a function of (seed, epoch, sample). Damaged samples end the run, or are
replaced by the order's pure rule and counted.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from trainplane.data.damage import Damage, DamageError
from trainplane.data.load.batch_maker import BatchMaker, BatchPart, OnDamage
from trainplane.data.load.workers import worker_parts
from trainplane.data.mixed_order import samples_at
from trainplane.data.mixture import TrainingData
from trainplane.data.read.fetch import DEFAULT_CACHE_BYTES
from trainplane.data.types import Batch, Transform
from trainplane.errors import UserError
from trainplane.store_wait import STORE_WAITS


class Loader:
    """One rank's share, `global_batch // world` samples, of every batch.

    Args:
        data: Dataset to load, or several that share each batch.
        transform: Decodes a sample.
        seed: Seed of the order and of the samples' randomness.
        global_batch: Samples per global step, over all ranks.
        rank: This rank, from 0.
        world: Number of ranks; it must divide `global_batch`.
        workers: Decoding processes, at most one per sample of the share; 0 decodes in a thread.
        prefetch: Batches made ahead, per worker.
        on_damage: "fail" raises `DamageError` at the first damaged sample; "quarantine" replaces it by another.
        damage_budget: Distinct samples that may be replaced before `DamageError` is raised. Each rank and loader counts
            from zero: a count of the run would take a message between all ranks for every batch.
        cache_bytes: Memory for bytes read ahead, over all workers of this rank.
    """

    def __init__(
        self,
        data: TrainingData,
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
        self._order = data.order(seed=seed, global_batch=global_batch)
        self._data = data
        self._slots = self._order.slots(rank=rank, world=world)
        self._workers = min(workers, len(self._slots))
        self._prefetch = prefetch
        self._damage_budget = damage_budget
        self._maker = BatchMaker(
            data=data,
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

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def order_hash(self) -> str:
        """Hash of the order; equal hashes mean equal batches."""
        return self._order.hash

    def samples_at(self, step: int) -> list[tuple[int, int]]:
        """Dataset and sample of each slot, over all ranks."""
        return samples_at(self._order, step)

    @property
    def steps_per_epoch(self) -> int:
        """Global steps in one epoch, of the first dataset."""
        return self._order.steps_per_epoch

    @property
    def damage(self) -> list[Damage]:
        """Distinct damaged samples so far, in the order of batches."""
        return list(self._damage.values())

    def batches(self, *, start: int, stop: int) -> Iterator[tuple[int, Batch]]:
        """Yields (step, batch) of steps start … stop - 1.

        Tensors have the shape (share, …) and are page-locked where CUDA is available. Threads and processes end with
        the iterator: when it is exhausted, closed, dropped, or fails.
        """
        if not 0 <= start <= stop:
            raise ValueError(f"steps {start} to {stop}")
        stream = self._stream(start, stop)
        self._open.add(stream)
        return stream

    def close(self) -> None:
        """Ends open iterators with their threads and processes."""
        for stream in list(self._open):
            stream.close()

    def _stream(self, start: int, stop: int) -> Generator[tuple[int, Batch], None, None]:
        # One thread runs the generator, so parts come in order, and its errors are raised where they are awaited.
        closed = threading.Event()
        with (
            closing(self._whole_parts(start, stop)) as parts,
            ThreadPoolExecutor(1, "loader", STORE_WAITS.obey, (closed.is_set,)) as thread,
        ):
            ahead = deque(thread.submit(next, parts) for _ in range(min(self._prefetch, stop - start)))
            try:
                for step in range(start, stop):
                    part = ahead.popleft().result()
                    if step + 1 + len(ahead) < stop:
                        ahead.append(thread.submit(next, parts))
                    self._check_damage(part)
                    yield step, part.batch
            finally:
                closed.set()
                thread.shutdown(wait=True, cancel_futures=True)

    def _whole_parts(self, start: int, stop: int) -> Generator[BatchPart, None, None]:
        """Yields parts with all slots, up to a failure."""
        if self._workers == 0:
            parts = self._maker.parts(start, stop, self._slots)
        else:
            parts = worker_parts(self._maker, start, stop, self._slots, workers=self._workers, prefetch=self._prefetch)
        with closing(parts):
            for part in parts:
                yield part
                if part.failure is not None:
                    return

    def _check_damage(self, part: BatchPart) -> None:
        """Counts damage; raises a failure or a spent budget."""
        # A failure by damage names the samples itself.
        damage = part.failure.damage if isinstance(part.failure, DamageError) else part.damage
        for sample in damage:
            self._damage.setdefault((sample.shard, sample.key), sample)
        if part.failure is not None:
            raise part.failure
        if len(self._damage) > self._damage_budget:
            usual = (
                f"that is more than data.damage_budget={self._damage_budget}; verify it, then repair it or pack again, "
                "or raise the budget"
            )
            raise DamageError(self._data.address, self.damage, self._data.remedy(usual))
