"""Makes one part of a batch.

A part belongs to some slots: the samples are read, transformed by the task and copied into rows of a batch, alike in
the loader's thread and in its worker processes. Failures with a message are values, because they must cross processes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from trainplane.data.damage import Damage, DamageError
from trainplane.data.load.buffers import BufferPool, Layout, copy_to_row
from trainplane.data.manifest import Dataset, Members
from trainplane.data.order import Order, sample_rng
from trainplane.data.read.fetch import Fetcher
from trainplane.data.types import Batch, Transform
from trainplane.errors import RunFailed, UserError

OnDamage: TypeAlias = Literal["fail", "quarantine"]

Allocate: TypeAlias = Callable[[Layout], Batch]
"""Returns memory for the next part of this layout."""

_MAX_SUBSTITUTES = 32  # tried for one slot before the dataset is given up


@dataclass(frozen=True)
class BatchPart:
    """Part of one step's batch."""

    batch: Batch  # tensors of shape (slots, …); empty after a failure
    damage: Sequence[Damage] = ()  # of samples that were replaced
    failure: RunFailed | UserError | None = None  # after it there are no more parts


@dataclass(frozen=True)
class BatchMaker:
    """Makes parts of batches; pickles for worker processes."""

    dataset: Dataset
    order: Order
    seed: int  # of the samples' randomness
    transform: Transform
    on_damage: OnDamage
    cache_bytes: int  # memory for samples read ahead

    def parts(
        self, start: int, stop: int, slots: range, *, allocate: Allocate | None = None
    ) -> Generator[BatchPart, None, None]:
        """Yields the parts of steps start … stop - 1.

        The next part is started when it is requested. A failure is the last part. Parts lie in memory of their own, or
        in that of `allocate`.
        """
        pool = BufferPool()
        try:
            with Fetcher(self.dataset, cache_bytes=self.cache_bytes) as fetcher:
                steps = ((step, self.order.visits(step, slots)) for step in range(start, stop))
                walk = fetcher.walk(steps, visited=self.order.visited_before(start, slots))
                for step, visits in enumerate(walk, start):
                    damage: list[Damage] = []
                    layout, batch = None, {}
                    for row, (slot, (visit, read)) in enumerate(zip(slots, visits, strict=True)):
                        sample = self._tensors(step, slot, visit.sample, read, damage, fetcher)
                        # The first sample of a part decides the layout of all.
                        if layout is None:
                            layout = Layout.of(sample)
                            batch = allocate(layout) if allocate else pool.allocate(layout, len(slots))
                        copy_to_row(sample, layout, batch, row)
                    yield BatchPart(batch, damage)
        except (RunFailed, UserError) as failure:
            yield BatchPart({}, failure=failure)

    def _tensors(
        self, step: int, slot: int, sample: int, read: Members | Damage, damage: list[Damage], fetcher: Fetcher
    ) -> Batch:
        """Returns a sample's tensors or its substitute's; extends `damage`."""
        epoch, _ = self.order.position(step)
        for attempt in range(_MAX_SUBSTITUTES):
            tensors = read if isinstance(read, Damage) else self._decode(sample, epoch, read)
            if not isinstance(tensors, Damage):
                return tensors
            damage.append(tensors)
            if self.on_damage == "fail":
                usual = "verify it, then repair it or pack again, or set data.on_damage=quarantine"
                raise DamageError(self.dataset.address, damage, self.dataset.remedy(usual))
            sample = self.order.substitute(step, slot, attempt=attempt)
            read = fetcher.read(sample)
        usual = f"{_MAX_SUBSTITUTES} samples in a row cannot be used; pack again"
        raise DamageError(self.dataset.address, damage, self.dataset.remedy(usual))

    def _decode(self, sample: int, epoch: int, members: Members) -> Batch | Damage:
        try:
            return self.transform(members, sample_rng(seed=self.seed, epoch=epoch, sample=sample))
        except UserError:
            raise  # another cause than the sample: say, a second dataset was replaced
        except ValueError as error:
            return self.dataset.undecodable(sample, error)
