"""Makes one part of a batch.

A part belongs to some slots: the samples are read, transformed by the task and copied into rows of a batch, alike in
the loader's thread and in its worker processes. Failures with a message are values, because they must cross processes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from trainplane.data.damage import Damage, DamageError
from trainplane.data.load.buffers import BufferPool, Layout, copy_to_row
from trainplane.data.manifest import Members
from trainplane.data.mixed_order import Lane, MixedOrder, lanes_of
from trainplane.data.mixture import Mixture, TrainingData, datasets_of
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

    data: TrainingData
    order: Order | MixedOrder
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
            with ExitStack() as stack:
                readers = [
                    _LaneReader(self, lane, start, stop, share=len(lane.slots) / len(slots), stack=stack)
                    for lane in lanes_of(self.order, slots)
                ]
                # The slots of all lanes in the order of the part.
                rows = sorted((row, at, reader) for reader in readers for at, row in enumerate(reader.lane.rows))
                for step in range(start, stop):
                    for reader in readers:
                        reader.advance()
                    damage: list[Damage] = []
                    layout, batch = None, {}
                    for row, at, reader in rows:
                        sample = reader.tensors(step, at, damage)
                        # The first sample of a part decides the layout of all.
                        if layout is None:
                            layout = Layout.of(sample)
                            batch = allocate(layout) if allocate else pool.allocate(layout, len(slots))
                        copy_to_row(sample, layout, batch, row)
                    yield BatchPart(batch, damage)
        except (RunFailed, UserError) as failure:
            yield BatchPart({}, failure=failure)


class _LaneReader:
    """Reads and decodes the samples of one dataset's slots."""

    def __init__(self, maker: BatchMaker, lane: Lane, start: int, stop: int, *, share: float, stack: ExitStack) -> None:
        self.lane = lane
        self._maker = maker
        self._dataset = datasets_of(maker.data)[lane.number]
        # A sample's randomness follows from its number through all datasets.
        self._before = sum(dataset.num_samples for dataset in datasets_of(maker.data)[: lane.number])
        self._prefix = f"{maker.data.sets[lane.number].label}/" if isinstance(maker.data, Mixture) else ""
        self._fetcher = stack.enter_context(Fetcher(self._dataset, cache_bytes=int(maker.cache_bytes * share)))
        steps = ((step, lane.order.visits(step, lane.slots)) for step in range(start, stop))
        self._walk = self._fetcher.walk(steps, visited=lane.order.visited_before(start, lane.slots))

    def advance(self) -> None:
        """Takes the samples of the next step."""
        self._step = next(self._walk)

    def tensors(self, step: int, at: int, damage: list[Damage]) -> Batch:
        """Returns a sample's tensors or its substitute's; extends `damage`."""
        visit, read = self._step[at]
        sample = visit.sample
        epoch, _ = self.lane.order.position(step)
        for attempt in range(_MAX_SUBSTITUTES):
            tensors = read if isinstance(read, Damage) else self._decode(sample, epoch, read)
            if not isinstance(tensors, Damage):
                return tensors
            damage.append(replace(tensors, shard=f"{self._prefix}{tensors.shard}"))
            if self._maker.on_damage == "fail":
                usual = "verify it, then repair it or pack again, or set data.on_damage=quarantine"
                raise DamageError(self._dataset.address, damage, self._dataset.remedy(usual))
            sample = self.lane.order.substitute(step, self.lane.slots[at], attempt=attempt)
            read = self._fetcher.read(sample)
        usual = f"{_MAX_SUBSTITUTES} samples in a row cannot be used; pack again"
        raise DamageError(self._dataset.address, damage, self._dataset.remedy(usual))

    def _decode(self, sample: int, epoch: int, members: Members) -> Batch | Damage:
        try:
            rng = sample_rng(seed=self._maker.seed, epoch=epoch, sample=self._before + sample)
            return self._maker.transform(members, rng)
        except UserError:
            raise  # another cause than the sample: say, a second dataset was replaced
        except ValueError as error:
            return self._dataset.undecodable(sample, error)
